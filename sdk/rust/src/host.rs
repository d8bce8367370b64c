//! What the host calls and what it offers. On other targets than wasm32, for unit tests, log goes to stderr and `fail`
//! panics.

use std::alloc::{GlobalAlloc, Layout, System};
use std::future::Future;

use crate::context::Context;
use crate::flow::{Call, Returned, Running};
use crate::message::{self, Message};
use crate::pack;
use crate::value::Value;

#[cfg(target_arch = "wasm32")]
mod imports {
    #[link(wasm_import_module = "rota")]
    extern "C" {
        pub fn log(text: *const u8, size: usize);
        pub fn fail(code: *const u8, code_size: usize, message: *const u8, message_size: usize);
        pub fn tensor_read(index: u32, offset: u64, to: *mut u8, size: usize) -> i32;
        pub fn tensor_new(
            dtype: *const u8, dtype_size: usize, shape: *const u64, rank: usize, data: *const u8, size: usize,
        ) -> i32;
    }
}

#[cfg(target_arch = "wasm32")]
pub fn log(text: &str) {
    unsafe { imports::log(text.as_ptr(), text.len()) }
}

#[cfg(target_arch = "wasm32")]
pub fn fail(code: &str, message: &str) -> ! {
    unsafe { imports::fail(code.as_ptr(), code.len(), message.as_ptr(), message.len()) };
    core::arch::wasm32::unreachable()
}

#[cfg(target_arch = "wasm32")]
pub fn tensor_read(index: u32, offset: u64, to: &mut [u8]) -> i32 {
    unsafe { imports::tensor_read(index, offset, to.as_mut_ptr(), to.len()) }
}

#[cfg(target_arch = "wasm32")]
pub fn tensor_new(dtype: &str, shape: &[u64], data: &[u8]) -> i32 {
    unsafe { imports::tensor_new(dtype.as_ptr(), dtype.len(), shape.as_ptr(), shape.len(), data.as_ptr(), data.len()) }
}

#[cfg(not(target_arch = "wasm32"))]
pub fn log(text: &str) {
    eprintln!("{}", text);
}

#[cfg(not(target_arch = "wasm32"))]
pub fn fail(code: &str, message: &str) -> ! {
    panic!("{}: {}", code, message)
}

#[cfg(not(target_arch = "wasm32"))]
pub fn tensor_read(_index: u32, _offset: u64, _to: &mut [u8]) -> i32 {
    -9
}

#[cfg(not(target_arch = "wasm32"))]
pub fn tensor_new(_dtype: &str, _shape: &[u64], _data: &[u8]) -> i32 {
    -9
}

/// The system's allocator, but a failure ends the task with `out_of_memory` in place of a bare trap.
pub struct Memory;

impl Memory {
    /// Where the host may write its input; null where there is no room, which the host makes a failure `memory`.
    pub fn room_for_input(size: usize) -> *mut u8 {
        match Layout::from_size_align(size.max(1), 8) {
            Ok(layout) => unsafe { System.alloc(layout) },
            Err(_) => std::ptr::null_mut(),
        }
    }
}

fn checked(pointer: *mut u8) -> *mut u8 {
    if pointer.is_null() {
        fail("out_of_memory", "the agent needs more than its memory_bytes");
    }
    pointer
}

unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        checked(System.alloc(layout))
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        System.dealloc(pointer, layout)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        checked(System.alloc_zeroed(layout))
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        checked(System.realloc(pointer, layout, size))
    }
}

static mut ANSWER: Vec<u8> = Vec::new();

/// The state's bytes and the message in the host's array, which is freed.
unsafe fn take_input(data: *mut u8, size: usize) -> (Option<Vec<u8>>, Message) {
    std::panic::set_hook(Box::new(|info| fail("panic", &info.to_string())));
    let input = std::slice::from_raw_parts(data, size);
    let found = message::read(input)
        .unwrap_or_else(|| fail("abi", "this agent knows version 1 of the input array only"));
    System.dealloc(data, Layout::from_size_align_unchecked(size.max(1), 8));
    found
}

unsafe fn give(answer: Vec<u8>) -> u64 {
    ANSWER = answer;
    (ANSWER.as_ptr() as u64) << 32 | ANSWER.len() as u64
}

/// Run the handler on the host's array. `agent!` calls it.
///
/// # Safety
/// `data` is what `Memory::room_for_input` returned, with `size` bytes in it.
pub unsafe fn run(data: *mut u8, size: usize, handler: fn(&mut Context)) -> u64 {
    let (before, message) = take_input(data, size);
    let state = match &before {
        Some(bytes) => pack::read(bytes).unwrap_or_else(|| fail("bad_state", "the state is not one MessagePack value")),
        None => Value::None,
    };
    let mut ctx = Context::new(message, state);
    handler(&mut ctx);
    give(ctx.packed(before.as_deref()))
}

static mut RUNNING: Option<Running> = None;

/// Go on with the call that this instance holds, or begin it, with the message in the host's array. `flow!` calls it.
///
/// # Safety
/// As of `run`.
pub unsafe fn run_flow<F: Future<Output = Returned> + 'static>(
    data: *mut u8, size: usize, begin: fn(Call) -> F,
) -> u64 {
    let (_, message) = take_input(data, size);
    give(match &mut RUNNING {
        Some(running) => running.go_on(message),
        none => none.insert(Running::begin(message, begin)).poll(),
    })
}
