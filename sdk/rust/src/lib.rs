//! Write Rota agents in Rust. No dependencies; the whole SDK is this crate.
//!
//! ```ignore
//! use rota::Context;
//!
//! rota::agent!(agent);
//!
//! fn agent(ctx: &mut Context) {
//!     let count = ctx.state.int_or(0) + 1;
//!     ctx.state = count.into();
//!     ctx.reply(count.to_string());
//! }
//! ```
//!
//! The handler gets one message at a time. It reads `ctx.message` and `ctx.state`, says what should happen, and returns;
//! then all of it happens, or none. A panic is an `error` with code `panic` and the panic's text, a failed allocation
//! one with code `out_of_memory`. docs/SDK.md describes the shape, docs/AGENTS.md the arrays beneath.

mod context;
mod flow;
mod host;
mod message;
mod pack;
mod value;

pub use context::{Context, Options, Payload};
pub use flow::{as_completed, first, join_all, try_join_all, Answer, AsCompleted, Ask, AskFailed};
pub use flow::{Call, Generated, Return, Returned, Sleep};
pub use host::{run, run_flow, Memory};
pub use message::{Kind, Message, ReplyTo, Tensor};
pub use value::Value;

/// Make the function the handler of this module: `rota::agent!(agent);`, once, at the top level.
#[macro_export]
macro_rules! agent {
    ($handler:path) => {
        $crate::exports!(data, size => $crate::run(data, size, $handler));
    };
}

/// Make the function the flow of this module: `rota::flow!(trip);`, once, at the top level. It is `async fn trip(ctx:
/// Call)` and returns its answer: what a payload may be, a `Result` of that and `AskFailed`, or nothing.
#[macro_export]
macro_rules! flow {
    ($flow:path) => {
        $crate::exports!(data, size => $crate::run_flow(data, size, |ctx| async move {
            $crate::Return::returned($flow(ctx).await)
        }));

        /// Says at the deploy that this is a flow.
        #[no_mangle]
        pub extern "C" fn rota_flow() {}
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! exports {
    ($data:ident, $size:ident => $run:expr) => {
        #[cfg(target_arch = "wasm32")]
        #[global_allocator]
        static ROTA_MEMORY: $crate::Memory = $crate::Memory;

        #[no_mangle]
        pub extern "C" fn rota_alloc(size: usize) -> *mut u8 {
            $crate::Memory::room_for_input(size)
        }

        /// # Safety
        /// Called by the host, with what `rota_alloc` returned.
        #[no_mangle]
        pub unsafe extern "C" fn rota_step($data: *mut u8, $size: usize) -> u64 {
            $run
        }
    };
}

/// A map value: `map! {"step" => 1, "text" => text}`. Keys and values are anything that becomes a `Value`.
#[macro_export]
macro_rules! map {
    ($($key:expr => $value:expr),* $(,)?) => {
        $crate::Value::Map(vec![$(($crate::Value::from($key), $crate::Value::from($value))),*])
    };
}

/// A list value: `list![1, "two", 3.5]`.
#[macro_export]
macro_rules! list {
    ($($item:expr),* $(,)?) => { $crate::Value::List(vec![$($crate::Value::from($item)),*]) };
}
