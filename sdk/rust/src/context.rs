//! What a handler may say.

use std::cell::RefCell;

use crate::host;
use crate::message::{Message, Tensor};
use crate::pack;
use crate::value::Value;

/// Bytes and text as they are, any other value as MessagePack.
pub struct Payload(pub Vec<u8>);

macro_rules! payload {
    ($($type:ty, $value:ident => $bytes:expr;)*) => {
        $(impl From<$type> for Payload { fn from($value: $type) -> Payload { Payload($bytes) } })*
    };
}

payload! {
    &str, value => value.as_bytes().to_vec();
    &String, value => value.as_bytes().to_vec();
    String, value => value.into_bytes();
    &[u8], value => value.to_vec();
    &Vec<u8>, value => value.clone();
    Vec<u8>, value => value;
    i32, value => packed(&value.into());
    i64, value => packed(&value.into());
    u64, value => packed(&value.into());
    f64, value => packed(&value.into());
    bool, value => packed(&value.into());
    &Value, value => match value {
        Value::Text(text) => text.as_bytes().to_vec(),
        Value::Bytes(bytes) => bytes.clone(),
        _ => packed(value),
    };
    Value, value => match value {
        Value::Text(text) => text.into_bytes(),
        Value::Bytes(bytes) => bytes,
        _ => packed(&value),
    };
}

fn packed(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    pack::value(&mut out, value);
    out
}

/// What an emit may have beside target and payload. Priority is -8 (last) to 7 (first); tensors are indices.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub priority: i64,
    pub tensors: Vec<u32>,
}

#[derive(Default)]
struct Answer {
    emits: Vec<u8>,
    emit_count: usize,
    result: Option<Vec<u8>>,
    tensors: Vec<u32>,
}

/// One message, the agent's state, and the verbs. `state` is `Value::None` at first; what it is when the handler returns
/// is what the next message sees.
pub struct Context {
    pub message: Message,
    pub state: Value,
    answer: RefCell<Answer>,
}

impl Context {
    pub(crate) fn new(message: Message, state: Value) -> Context {
        Context { message, state, answer: RefCell::default() }
    }

    /// Send a message that gets no answer.
    pub fn emit(&self, target: &str, payload: impl Into<Payload>) {
        self.send(target, payload.into(), "tell", Options::default(), None);
    }

    pub fn emit_with(&self, target: &str, payload: impl Into<Payload>, options: Options) {
        self.send(target, payload.into(), "tell", options, None);
    }

    /// Send a message whose outcome comes back as a later one. Returns what its `reply_to.emit` will be.
    pub fn ask(&self, target: &str, payload: impl Into<Payload>) -> usize {
        self.send(target, payload.into(), "ask", Options::default(), None)
    }

    pub fn ask_with(&self, target: &str, payload: impl Into<Payload>, options: Options) -> usize {
        self.send(target, payload.into(), "ask", options, None)
    }

    /// Get `payload` back as a message of kind timer, `delay_ms` after this message's `now_ms`.
    pub fn timer(&self, delay_ms: u64, payload: impl Into<Payload>) {
        self.send(&self.message.address, payload.into(), "timer", Options::default(), Some(delay_ms));
    }

    /// Set the result of the task; the last call counts.
    pub fn reply(&self, payload: impl Into<Payload>) {
        self.reply_with(payload, &[]);
    }

    /// The same, with tensors by index.
    pub fn reply_with(&self, payload: impl Into<Payload>, tensors: &[u32]) {
        let mut answer = self.answer.borrow_mut();
        answer.result = Some(payload.into().0);
        answer.tensors = tensors.to_vec();
    }

    /// End the task as `error` at once: the state stays as it was, nothing is sent.
    pub fn fail(&self, code: &str, message: &str) -> ! {
        host::fail(code, message)
    }

    /// A line for the operator, written at once.
    pub fn log(&self, text: &str) {
        host::log(text);
    }

    /// Make a tensor of `data` (C order, little-endian) that emits and the reply may name.
    pub fn tensor(&self, dtype: &str, shape: &[u64], data: &[u8]) -> Tensor {
        let index = host::tensor_new(dtype, shape, data);
        let index = u32::try_from(index).unwrap_or_else(|_| {
            host::fail("bad_tensor", "dtype, shape and data do not fit, or there are too many tensors")
        });
        Tensor { index, digest: Vec::new(), dtype: dtype.to_owned(), shape: shape.to_vec() }
    }

    fn send(&self, target: &str, payload: Payload, kind: &str, options: Options, delay_ms: Option<u64>) -> usize {
        let mut answer = self.answer.borrow_mut();
        let out = &mut answer.emits;
        pack::array(out, if delay_ms.is_some() { 6 } else { 5 });
        pack::text(out, target);
        pack::bytes(out, &payload.0);
        pack::int(out, options.priority);
        pack::text(out, kind);
        indices(out, &options.tensors);
        if let Some(delay_ms) = delay_ms {
            pack::uint(out, delay_ms);
        }
        answer.emit_count += 1;
        answer.emit_count - 1
    }

    /// The output array. `before`: the state's bytes as they came.
    pub(crate) fn packed(&self, before: Option<&[u8]>) -> Vec<u8> {
        let answer = self.answer.borrow();
        let state = packed(&self.state);
        let mut out = Vec::with_capacity(64 + state.len() + answer.emits.len() + answer.result.as_ref().map_or(0, Vec::len));
        pack::array(&mut out, if answer.tensors.is_empty() { 6 } else { 7 });
        pack::uint(&mut out, 1);
        pack::uint(&mut out, 0);
        if state == before.unwrap_or(&[0xc0]) {
            pack::nil(&mut out);
        } else {
            pack::bytes(&mut out, &state);
        }
        match &answer.result {
            Some(result) => pack::bytes(&mut out, result),
            None => pack::nil(&mut out),
        }
        pack::array(&mut out, answer.emit_count);
        out.extend_from_slice(&answer.emits);
        pack::array(&mut out, 0); // the log is written by then
        if !answer.tensors.is_empty() {
            indices(&mut out, &answer.tensors);
        }
        out
    }
}

fn indices(out: &mut Vec<u8>, tensors: &[u32]) {
    pack::array(out, tensors.len());
    tensors.iter().for_each(|index| pack::uint(out, u64::from(*index)));
}
