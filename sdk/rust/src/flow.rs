//! Flows: a call waits in the middle, and its instance lives until it ends. What it waits for comes as messages, each of
//! which polls the flow once; so there is no waker, and what is ready together is taken in the order given.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as Polling, Poll, RawWaker, RawWakerVTable, Waker};

use crate::context::{Options, Outbox, Payload, Sending};
use crate::host;
use crate::message::{self, Kind, Message, Tensor};
use crate::pack;
use crate::value::Value;

const WAITS_SHOWN: usize = 2;
const WAITS_CHARS_MAX: usize = 256;

/// The answer to an ask.
#[derive(Clone, Debug)]
pub struct Answer {
    pub payload: Vec<u8>,
    pub tensors: Vec<Tensor>,
    /// The agent that answered; none: a model.
    pub sender: Option<String>,
    /// The turn of the task that was asked.
    pub turn: u64,
}

impl Answer {
    /// The payload as text; fails the call with `bad_payload` if it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).unwrap_or_else(|_| host::fail("bad_payload", "the payload is not UTF-8"))
    }

    /// The payload as one value; fails the call with `bad_payload` if it is no MessagePack.
    pub fn value(&self) -> Value {
        pack::read(&self.payload).unwrap_or_else(|| host::fail("bad_payload", "the payload is not one MessagePack value"))
    }
}

/// The answer to an ask is a failure. A flow that returns it fails with the code `AskFailed`.
#[derive(Clone, Debug)]
pub struct AskFailed {
    pub kind: String,
    pub message: String,
    /// The turn of the task that was asked.
    pub turn: u64,
}

impl fmt::Display for AskFailed {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "{}: {}", self.kind, self.message)
    }
}

impl std::error::Error for AskFailed {}

/// What an ask or a sleep waits for: an ask by its turn and place, a sleep by its number.
#[derive(Clone, Copy, PartialEq)]
enum Key {
    Ask(u64, u64),
    Sleep(u64),
}

struct Waited {
    key: Key,
    place: &'static Location<'static>,
    message: Option<Message>,
    /// Whether the flow has looked for it in this step, and so waits for it now.
    polled: bool,
}

impl Waited {
    fn new(key: Key, place: &'static Location<'static>) -> Waited {
        Waited { key, place, message: None, polled: false }
    }
}

/// A call between its messages. `turn` and `now_ms` are of the message that came last. `clock_ms` never goes back, though a
/// reply may descend from an older input than the timer before it.
struct Inner {
    outbox: Outbox,
    /// What `reply` set, which waits for the end.
    reply: Option<(Payload, Vec<u32>)>,
    address: String,
    turn: u64,
    now_ms: u64,
    clock_ms: u64,
    sleeps: u64,
    tensors: u32,
    waited: Vec<Waited>,
}

/// The call: its message, and what it may do. A clone is the same call.
#[derive(Clone)]
pub struct Call {
    pub message: Rc<Message>,
    inner: Rc<RefCell<Inner>>,
}

impl Call {
    /// Send a message that gets no answer.
    pub fn emit(&self, target: &str, payload: impl Into<Payload>) {
        self.emit_with(target, payload, Options::default());
    }

    pub fn emit_with(&self, target: &str, payload: impl Into<Payload>, options: Options) {
        self.inner.borrow_mut().outbox.send(target, payload.into(), Sending::plain("tell", options));
    }

    /// Ask, at once; await what this returns for the answer.
    #[track_caller]
    pub fn ask(&self, target: &str, payload: impl Into<Payload>) -> Ask {
        self.ask_with(target, payload, Options::default())
    }

    #[track_caller]
    pub fn ask_with(&self, target: &str, payload: impl Into<Payload>, options: Options) -> Ask {
        let place = Location::caller();
        let mut inner = self.inner.borrow_mut();
        let deadline_ms = if options.deadline_ms > 0 { inner.from_now(options.deadline_ms) } else { 0 };
        let sending = Sending::ask(Options { deadline_ms, ..options });
        let emit = inner.outbox.send(target, payload.into(), sending);
        let key = Key::Ask(inner.turn, emit as u64);
        inner.waited.push(Waited::new(key, place));
        Ask(Wait { key, inner: self.inner.clone() })
    }

    /// Let a model generate: `options` as PROTOCOL.md has them, `map! {"prompt" => "...", "max_tokens" => 32}`. Gives the map
    /// with `text` and the rest.
    #[track_caller]
    pub fn generate(&self, model: &str, options: Value) -> Generated {
        Generated(self.ask(&format!("model:{}", model), Value::Map(vec![("generate".into(), options)])))
    }

    /// Wait for a timer of `delay_ms` milliseconds, which is set at once.
    #[track_caller]
    pub fn sleep(&self, delay_ms: u64) -> Sleep {
        let place = Location::caller();
        let mut inner = self.inner.borrow_mut();
        let number = inner.sleeps;
        let address = inner.address.clone();
        let sending = Sending::timer(inner.from_now(delay_ms));
        inner.outbox.send(&address, number.into(), sending);
        inner.sleeps += 1;
        inner.waited.push(Waited::new(Key::Sleep(number), place));
        Sleep(Wait { key: Key::Sleep(number), inner: self.inner.clone() })
    }

    /// The latest time of the messages so far, in milliseconds since 1970; `message.now_ms` is that of the first.
    pub fn now_ms(&self) -> u64 {
        self.inner.borrow().clock_ms
    }

    /// Set the answer of the call, for a flow that returns nothing; the last one counts.
    pub fn reply(&self, payload: impl Into<Payload>) {
        self.reply_with(payload, &[]);
    }

    /// The same, with tensors by index.
    pub fn reply_with(&self, payload: impl Into<Payload>, tensors: &[u32]) {
        self.inner.borrow_mut().reply = Some((payload.into(), tensors.to_vec()));
    }

    /// Fail the call as `error` at once.
    pub fn fail(&self, code: &str, message: &str) -> ! {
        host::fail(code, message)
    }

    /// A line for the operator, written at once.
    pub fn log(&self, text: &str) {
        host::log(text);
    }

    /// Make a tensor of `data` (C order, little-endian) that emits and the reply may name until the call waits.
    pub fn tensor(&self, dtype: &str, shape: &[u64], data: &[u8]) -> Tensor {
        Tensor::new(dtype, shape, data)
    }
}

struct Wait {
    key: Key,
    inner: Rc<RefCell<Inner>>,
}

impl Wait {
    fn poll(&mut self) -> Poll<Message> {
        let inner = &mut *self.inner.borrow_mut();
        let index = inner.waited.iter().position(|waited| waited.key == self.key);
        let index = index.unwrap_or_else(|| host::fail("polled_again", "what was awaited has given its answer before"));
        if inner.waited[index].message.is_some() {
            return inner.waited.remove(index).message.map_or(Poll::Pending, Poll::Ready);
        }
        inner.waited[index].polled = true;
        Poll::Pending
    }
}

impl Drop for Wait {
    /// Nobody will await it: its answer is not kept.
    fn drop(&mut self) {
        self.inner.borrow_mut().waited.retain(|waited| waited.key != self.key);
    }
}

/// An ask that was sent; its answer when it is awaited.
pub struct Ask(Wait);

impl Future for Ask {
    type Output = Result<Answer, AskFailed>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Polling) -> Poll<Self::Output> {
        self.0.poll().map(|message| {
            let turn = message.reply_to.map_or(0, |reply_to| reply_to.turn);
            if message.kind == Kind::Reply {
                return Ok(Answer { payload: message.payload, tensors: message.tensors, sender: message.sender, turn });
            }
            let failure = message.value();
            Err(AskFailed { kind: failure[0].text().to_owned(), message: failure[1].text().to_owned(), turn })
        })
    }
}

/// What `generate` asked: the map `generate` of the answer when it is awaited.
pub struct Generated(Ask);

impl Future for Generated {
    type Output = Result<Value, AskFailed>;

    fn poll(mut self: Pin<&mut Self>, polling: &mut Polling) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(polling).map(|answer| Ok(answer?.value()["generate"].clone()))
    }
}

/// A timer that was set; it ends when the timer has fired.
pub struct Sleep(Wait);

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, _: &mut Polling) -> Poll<()> {
        self.0.poll().map(|_| ())
    }
}

/// What a flow has come to: its answer with tensors by index, none, or the failure that it did not handle.
pub type Returned = Result<Option<(Payload, Vec<u32>)>, AskFailed>;

/// What a flow may return.
pub trait Return {
    fn returned(self) -> Returned;
}

impl Return for () {
    fn returned(self) -> Returned {
        Ok(None)
    }
}

impl<T: Into<Payload>> Return for T {
    fn returned(self) -> Returned {
        Ok(Some((self.into(), Vec::new())))
    }
}

/// None: what the flow gave to `reply`, if anything.
impl<T: Return> Return for Option<T> {
    fn returned(self) -> Returned {
        self.map_or(Ok(None), Return::returned)
    }
}

/// The answer is given on as it came, with its tensors.
impl Return for Answer {
    fn returned(self) -> Returned {
        let tensors = self.tensors.iter().map(|tensor| tensor.index).collect();
        Ok(Some((self.payload.into(), tensors)))
    }
}

impl<T: Return> Return for Result<T, AskFailed> {
    fn returned(self) -> Returned {
        self?.returned()
    }
}

/// The call that an instance holds, from its first message to its end.
pub struct Running {
    flow: Pin<Box<dyn Future<Output = Returned>>>,
    inner: Rc<RefCell<Inner>>,
}

impl Running {
    pub(crate) fn begin<F: Future<Output = Returned> + 'static>(message: Message, begin: fn(Call) -> F) -> Running {
        message::begin_step(message.tensors.len() as u32);
        let inner = Rc::new(RefCell::new(Inner {
            outbox: Outbox::default(),
            reply: None,
            address: message.address.clone(),
            turn: message.turn,
            now_ms: message.now_ms,
            clock_ms: message.now_ms,
            sleeps: 0,
            tensors: message.tensors.len() as u32,
            waited: Vec::new(),
        }));
        let call = Call { message: Rc::new(message), inner: inner.clone() };
        Running { flow: Box::pin(begin(call)), inner }
    }

    pub(crate) fn go_on(&mut self, message: Message) -> Vec<u8> {
        self.inner.borrow_mut().take(message);
        self.poll()
    }

    /// Go as far as it can; return the output array.
    pub(crate) fn poll(&mut self) -> Vec<u8> {
        let waker = unsafe { Waker::from_raw(NOBODY) };
        let returned = self.flow.as_mut().poll(&mut Polling::from_waker(&waker));
        let inner = &mut *self.inner.borrow_mut();
        match returned {
            Poll::Ready(Ok(given)) => {
                if let Some((payload, tensors)) = given.or_else(|| inner.reply.take()) {
                    inner.outbox.reply(payload, &tensors);
                }
            }
            Poll::Ready(Err(failed)) => host::fail("AskFailed", &failed.to_string()),
            Poll::Pending if inner.waited.iter().all(|waited| waited.message.is_some()) => {
                host::fail("waits_for_nothing", "no ask and no timer of this call is on its way: await what ask returns")
            }
            Poll::Pending => inner.outbox.waits = Some(inner.places()),
        }
        inner.outbox.packed(None)
    }
}

impl Inner {
    /// A delay from the clock on, as one from the message on, from which the host counts.
    fn from_now(&self, delay_ms: u64) -> u64 {
        self.clock_ms - self.now_ms + delay_ms
    }

    /// Begin a step with its message; one that nobody waits for any more is dropped.
    fn take(&mut self, mut message: Message) {
        self.outbox = Outbox::default();
        self.turn = message.turn;
        self.now_ms = message.now_ms;
        self.clock_ms = self.clock_ms.max(message.now_ms);
        self.waited.iter_mut().for_each(|waited| waited.polled = false);
        message.tensors.iter_mut().for_each(|tensor| tensor.index += self.tensors);
        self.tensors += message.tensors.len() as u32;
        message::begin_step(self.tensors);
        let key = match message.kind {
            Kind::Timer => message::unsigned(&message.value()).map(Key::Sleep),
            _ => message.reply_to.map(|reply_to| Key::Ask(reply_to.asked_in, reply_to.emit)),
        };
        if let Some(waited) = self.waited.iter_mut().find(|waited| Some(waited.key) == key) {
            waited.message = Some(message);
        }
    }

    /// The lines that asked or slept what the flow waits for now: the first two, and how many there are more.
    fn places(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for place in self.waited.iter().filter(|waited| waited.polled).map(|waited| waited.place) {
            let line = format!("{}:{}", place.file().rsplit('/').next().unwrap_or("?"), place.line());
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        let more = lines.len().saturating_sub(WAITS_SHOWN);
        lines.truncate(WAITS_SHOWN);
        let shown = lines.join(", ").chars().take(WAITS_CHARS_MAX - 24).collect::<String>();
        if more > 0 { format!("{} and {} more", shown, more) } else { shown }
    }
}

const NOBODY: RawWaker = RawWaker::new(
    std::ptr::null(),
    &RawWakerVTable::new(|_| NOBODY, |_| {}, |_| {}, |_| {}),
);

/// Wait for all, and return what each gave, in the order given.
pub async fn join_all<F: Future>(all: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    let mut coming = as_completed(all);
    let mut found = Vec::new();
    while let Some(one) = coming.next().await {
        found.push(one);
    }
    found.sort_by_key(|(index, _)| *index);
    found.into_iter().map(|(_, output)| output).collect()
}

/// The same for what may fail: it ends with the first failure.
pub async fn try_join_all<F: Future<Output = Result<T, E>>, T, E>(all: impl IntoIterator<Item = F>) -> Result<Vec<T>, E> {
    let mut coming = as_completed(all);
    let mut found = Vec::new();
    while let Some((index, output)) = coming.next().await {
        found.push((index, output?));
    }
    found.sort_by_key(|(index, _)| *index);
    Ok(found.into_iter().map(|(_, output)| output).collect())
}

/// What the first gives; the others are dropped. Fails the call where there are none.
pub async fn first<F: Future>(all: impl IntoIterator<Item = F>) -> F::Output {
    match as_completed(all).next().await {
        Some((_, output)) => output,
        None => host::fail("waits_for_nothing", "the first of nothing never comes"),
    }
}

/// Each with its place in what was given, as they come.
pub fn as_completed<F: Future>(all: impl IntoIterator<Item = F>) -> AsCompleted<F> {
    AsCompleted { left: all.into_iter().map(Box::pin).enumerate().collect() }
}

pub struct AsCompleted<F: Future> {
    left: Vec<(usize, Pin<Box<F>>)>,
}

impl<F: Future> AsCompleted<F> {
    /// The place and the output of the next that is ready; none after the last.
    pub async fn next(&mut self) -> Option<(usize, F::Output)> {
        if self.left.is_empty() {
            return None;
        }
        Some(Next(&mut self.left).await)
    }
}

struct Next<'a, F: Future>(&'a mut Vec<(usize, Pin<Box<F>>)>);

impl<'a, F: Future> Future for Next<'a, F> {
    type Output = (usize, F::Output);

    fn poll(mut self: Pin<&mut Self>, polling: &mut Polling) -> Poll<Self::Output> {
        for place in 0..self.0.len() {
            if let Poll::Ready(output) = self.0[place].1.as_mut().poll(polling) {
                return Poll::Ready((self.0.remove(place).0, output));
            }
        }
        Poll::Pending
    }
}
