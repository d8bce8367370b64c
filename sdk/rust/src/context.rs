//! What a handler may say.

use std::cell::RefCell;

use crate::host;
use crate::message::{host_index, Message, Tensor};
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
    /// Of an ask: milliseconds after this message's `now_ms` at which it fails as `expired`; 0: none. Of `hand_on` too,
    /// which can only bring a deadline forward.
    pub deadline_ms: u64,
    /// Of `hand_on`: the turn that was postponed; 0: this one.
    pub turn: u64,
}

/// What the message comes to: the output array in parts.
#[derive(Default)]
pub(crate) struct Outbox {
    emits: Vec<u8>,
    emit_count: usize,
    result: Option<Vec<u8>>,
    tensors: Vec<u32>,
    /// Postponed, or a call that goes on, and where it waits.
    pub(crate) waits: Option<String>,
}

/// An emit but for target and payload. `answers`: the postponed turn, 0 for none.
pub(crate) struct Sending<'a> {
    pub kind: &'a str,
    pub options: Options,
    pub delay_ms: Option<u64>,
    pub answers: u64,
}

impl<'a> Sending<'a> {
    pub fn plain(kind: &'a str, options: Options) -> Sending<'a> {
        Sending { kind, options, delay_ms: None, answers: 0 }
    }

    pub fn ask(options: Options) -> Sending<'a> {
        let delay_ms = if options.deadline_ms > 0 { Some(options.deadline_ms) } else { None };
        Sending { kind: "ask", options, delay_ms, answers: 0 }
    }

    pub fn timer(delay_ms: u64) -> Sending<'a> {
        Sending { kind: "timer", options: Options::default(), delay_ms: Some(delay_ms), answers: 0 }
    }
}

impl Outbox {
    pub fn send(&mut self, target: &str, payload: Payload, sending: Sending) -> usize {
        let out = &mut self.emits;
        let fields = if sending.answers > 0 { 7 } else { 5 + sending.delay_ms.is_some() as usize };
        pack::array(out, fields);
        pack::text(out, target);
        pack::bytes(out, &payload.0);
        pack::int(out, sending.options.priority);
        pack::text(out, sending.kind);
        indices(out, &sending.options.tensors);
        if fields > 5 {
            pack::uint(out, sending.delay_ms.unwrap_or(0));
        }
        if fields > 6 {
            pack::uint(out, sending.answers);
        }
        self.emit_count += 1;
        self.emit_count - 1
    }

    pub fn reply(&mut self, payload: Payload, tensors: &[u32]) {
        self.result = Some(payload.0);
        self.tensors = tensors.to_vec();
    }

    /// The output array. `state`: none if it is as it was.
    pub fn packed(&self, state: Option<&[u8]>) -> Vec<u8> {
        let room = state.map_or(0, <[u8]>::len) + self.emits.len() + self.result.as_ref().map_or(0, Vec::len);
        let mut out = Vec::with_capacity(64 + room);
        let fields = if self.waits.is_some() { 8 } else { 6 + !self.tensors.is_empty() as usize };
        pack::array(&mut out, fields);
        pack::uint(&mut out, 1);
        pack::uint(&mut out, 0);
        bytes_or_nil(&mut out, state);
        bytes_or_nil(&mut out, self.result.as_deref());
        pack::array(&mut out, self.emit_count);
        out.extend_from_slice(&self.emits);
        pack::array(&mut out, 0); // the log is written by then
        if fields > 6 {
            indices(&mut out, &self.tensors);
        }
        if let Some(waits) = &self.waits {
            pack::text(&mut out, waits);
        }
        out
    }
}

fn bytes_or_nil(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => pack::bytes(out, bytes),
        None => pack::nil(out),
    }
}

fn indices(out: &mut Vec<u8>, tensors: &[u32]) {
    pack::array(out, tensors.len());
    tensors.iter().for_each(|index| pack::uint(out, u64::from(host_index(*index))));
}

/// One message, the agent's state, and the verbs. `state` is `Value::None` at first; what it is when the handler returns
/// is what the next message sees.
pub struct Context {
    pub message: Message,
    pub state: Value,
    outbox: RefCell<Outbox>,
}

impl Context {
    pub(crate) fn new(message: Message, state: Value) -> Context {
        Context { message, state, outbox: RefCell::default() }
    }

    /// Send a message that gets no answer.
    pub fn emit(&self, target: &str, payload: impl Into<Payload>) {
        self.emit_with(target, payload, Options::default());
    }

    pub fn emit_with(&self, target: &str, payload: impl Into<Payload>, options: Options) {
        self.send(target, payload.into(), Sending::plain("tell", options));
    }

    /// Send a message whose outcome comes back as a later one. Returns what its `reply_to.emit` will be.
    pub fn ask(&self, target: &str, payload: impl Into<Payload>) -> usize {
        self.ask_with(target, payload, Options::default())
    }

    pub fn ask_with(&self, target: &str, payload: impl Into<Payload>, options: Options) -> usize {
        self.send(target, payload.into(), Sending::ask(options))
    }

    /// Get `payload` back as a message of kind timer, `delay_ms` after this message's `now_ms`.
    pub fn timer(&self, delay_ms: u64, payload: impl Into<Payload>) {
        self.send(&self.message.address, payload.into(), Sending::timer(delay_ms));
    }

    /// Set the result of the task; the last call counts.
    pub fn reply(&self, payload: impl Into<Payload>) {
        self.reply_with(payload, &[]);
    }

    /// The same, with tensors by index.
    pub fn reply_with(&self, payload: impl Into<Payload>, tensors: &[u32]) {
        self.outbox.borrow_mut().reply(payload.into(), tensors);
    }

    /// Give no result yet: whoever asked gets one when a later message settles the turn that this returns.
    pub fn postpone(&self) -> u64 {
        self.outbox.borrow_mut().waits = Some(String::new());
        self.message.turn
    }

    /// Answer the task that was postponed in `turn`.
    pub fn settle(&self, turn: u64, payload: impl Into<Payload>) {
        self.settle_with(turn, payload, &[]);
    }

    /// The same, with tensors by index.
    pub fn settle_with(&self, turn: u64, payload: impl Into<Payload>, tensors: &[u32]) {
        let options = Options { tensors: tensors.to_vec(), ..Options::default() };
        let sending = Sending { answers: turn, ..Sending::plain("reply", options) };
        self.send(&self.message.address, payload.into(), sending);
    }

    /// Answer the task that was postponed in `turn` with the failure `error` "code: message".
    pub fn settle_failure(&self, turn: u64, code: &str, message: &str) {
        let failure = Value::List(vec![code.into(), message.into()]);
        let sending = Sending { answers: turn, ..Sending::plain("failure", Options::default()) };
        self.send(&self.message.address, failure.into(), sending);
    }

    /// Let another agent answer this task in place of this one.
    pub fn hand_on(&self, target: &str, payload: impl Into<Payload>) {
        self.hand_on_with(target, payload, Options::default());
    }

    /// The same, or with `options.turn` a task that was postponed.
    pub fn hand_on_with(&self, target: &str, payload: impl Into<Payload>, options: Options) {
        let answers = if options.turn == 0 { self.message.turn } else { options.turn };
        if answers == self.message.turn {
            self.postpone();
        }
        self.send(target, payload.into(), Sending { answers, ..Sending::ask(options) });
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
        Tensor::new(dtype, shape, data)
    }

    fn send(&self, target: &str, payload: Payload, sending: Sending) -> usize {
        self.outbox.borrow_mut().send(target, payload, sending)
    }

    /// The output array. `before`: the state's bytes as they came.
    pub(crate) fn packed(&self, before: Option<&[u8]>) -> Vec<u8> {
        let state = packed(&self.state);
        self.outbox.borrow().packed(if state == before.unwrap_or(&[0xc0]) { None } else { Some(&state) })
    }
}
