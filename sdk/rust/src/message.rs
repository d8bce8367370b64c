//! What a handler is given.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::host;
use crate::pack;
use crate::value::Value;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Tell,
    Ask,
    Reply,
    Failure,
    Timer,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Tell, "tell"),
    (Kind::Ask, "ask"),
    (Kind::Reply, "reply"),
    (Kind::Failure, "failure"),
    (Kind::Timer, "timer"),
];

impl Kind {
    pub fn name(self) -> &'static str {
        KINDS[self as usize].1
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a reply or failure answers: the turn of the asked task, the turn that asked, and what `ask` returned there.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplyTo {
    pub turn: u64,
    pub asked_in: u64,
    pub emit: u64,
}

/// Of a call of a flow: its step, from 1, and the host's index of the first tensor that the step makes. 0 for an agent.
static STEP: AtomicU32 = AtomicU32::new(0);
static FIRST_MADE: AtomicU32 = AtomicU32::new(0);

const MADE: u32 = 1 << 31; // an index with this bit is of a tensor that a step has made: the step, then its place there
const PLACE_BITS: u32 = 8;
const TENSORS_MAX: u32 = 1 << PLACE_BITS;

/// Begin a step of a call. `tensors`: how many its messages have so far.
pub(crate) fn begin_step(tensors: u32) {
    STEP.fetch_add(1, Ordering::Relaxed);
    FIRST_MADE.store(tensors, Ordering::Relaxed);
}

/// The host's index of a tensor. Fails the call with `old_tensor` if a step before this one has made it.
pub(crate) fn host_index(index: u32) -> u32 {
    if index & MADE == 0 {
        return index;
    }
    if (index & !MADE) >> PLACE_BITS != STEP.load(Ordering::Relaxed) {
        host::fail("old_tensor", "the call has waited since it made this tensor: send it before, or make it again");
    }
    FIRST_MADE.load(Ordering::Relaxed) + index % TENSORS_MAX
}

/// A tensor by reference. `index` is what emits and replies name it by.
#[derive(Clone, Debug)]
pub struct Tensor {
    pub index: u32,
    pub digest: Vec<u8>,
    pub dtype: String,
    pub shape: Vec<u64>,
}

impl Tensor {
    pub(crate) fn new(dtype: &str, shape: &[u64], data: &[u8]) -> Tensor {
        let index = host::tensor_new(dtype, shape, data);
        let index = u32::try_from(index).unwrap_or_else(|_| {
            host::fail("bad_tensor", "dtype, shape and data do not fit, or there are too many tensors")
        });
        let step = STEP.load(Ordering::Relaxed);
        let place = index - FIRST_MADE.load(Ordering::Relaxed);
        let index = if step == 0 { index } else { MADE | step << PLACE_BITS | place };
        Tensor { index, digest: Vec::new(), dtype: dtype.to_owned(), shape: shape.to_vec() }
    }

    /// Copy the data (C order, little-endian) from byte `offset` on into `to`; returns how many bytes there were.
    /// Fails the task where `offset` is behind the end.
    pub fn read(&self, offset: u64, to: &mut [u8]) -> usize {
        let count = host::tensor_read(host_index(self.index), offset, to);
        usize::try_from(count).unwrap_or_else(|_| host::fail("bad_tensor", "the offset is behind the end"))
    }
}

pub struct Message {
    pub kind: Kind,
    /// The agent it came from; none: from outside.
    pub sender: Option<String>,
    pub payload: Vec<u8>,
    pub turn: u64,
    pub now_ms: u64,
    pub entropy: [u8; 32],
    pub reply_to: Option<ReplyTo>,
    pub tensors: Vec<Tensor>,
    /// The agent's own.
    pub address: String,
}

impl Message {
    /// The payload as text; fails the task with `bad_payload` if it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap_or_else(|_| host::fail("bad_payload", "the payload is not UTF-8"))
    }

    /// The payload as one value; fails the task with `bad_payload` if it is no MessagePack. A failure's is
    /// `[kind, message]`.
    pub fn value(&self) -> Value {
        pack::read(&self.payload).unwrap_or_else(|| host::fail("bad_payload", "the payload is not one MessagePack value"))
    }
}

pub(crate) fn unsigned(value: &Value) -> Option<u64> {
    match value {
        Value::Int(value) => u64::try_from(*value).ok(),
        Value::Uint(value) => Some(*value),
        _ => None,
    }
}

fn reply_to(value: &Value) -> Option<ReplyTo> {
    Some(ReplyTo { turn: unsigned(&value[0])?, asked_in: unsigned(&value[1])?, emit: unsigned(&value[2])? })
}

fn tensor(index: usize, value: &Value) -> Tensor {
    Tensor {
        index: index as u32,
        digest: value[0].bytes().to_vec(),
        dtype: value[1].text().to_owned(),
        shape: value[2].items().iter().filter_map(unsigned).collect(),
    }
}

/// The state's bytes and the message in the host's array; none if it is of another version.
pub fn read(data: &[u8]) -> Option<(Option<Vec<u8>>, Message)> {
    let mut fields = match pack::read(data)? {
        Value::List(fields) if fields.len() >= 11 && fields[0] == Value::Int(1) => fields,
        _ => return None,
    };
    let state = match std::mem::replace(&mut fields[1], Value::None) {
        Value::Bytes(state) => Some(state),
        _ => None,
    };
    let kind = KINDS.iter().find(|row| row.1 == fields[2].text())?.0;
    let sender = match &fields[3] {
        Value::Text(sender) => Some(sender.clone()),
        _ => None,
    };
    let payload = match std::mem::replace(&mut fields[4], Value::None) {
        Value::Bytes(payload) => payload,
        _ => return None,
    };
    let message = Message {
        kind,
        sender,
        payload,
        turn: unsigned(&fields[5])?,
        now_ms: unsigned(&fields[6])?,
        entropy: fields[7].bytes().try_into().ok()?,
        reply_to: reply_to(&fields[8]),
        tensors: fields[9].items().iter().enumerate().map(|(index, value)| tensor(index, value)).collect(),
        address: fields[10].text().to_owned(),
    };
    Some((state, message))
}
