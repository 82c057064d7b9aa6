//! Counts what a decoder allocates.
//!
//! The only unsafe code of the workspace's tools: a global allocator has no safe form, and only it sees a length that
//! was believed before the bytes were there.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::{Path, PathBuf};
use std::ptr;
use std::slice;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// A single allocation above this is refused, after the input that asked for it was saved: what the system would do
/// with it differs from machine to machine.
const SINGLE_BYTES_MAX: usize = 1 << 30;

static MEASURING: AtomicBool = AtomicBool::new(false);
static CURRENT_BYTES: AtomicUsize = AtomicUsize::new(0);
static PEAK_BYTES: AtomicUsize = AtomicUsize::new(0);
static TOTAL_BYTES: AtomicUsize = AtomicUsize::new(0);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static INPUT: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static INPUT_BYTES: AtomicUsize = AtomicUsize::new(0);
static OVERSIZED: Mutex<Option<PathBuf>> = Mutex::new(None);

/// What one run allocated.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Held at the same time at most, in bytes.
    pub peak_bytes: usize,
    /// All allocations together, in bytes.
    pub total_bytes: usize,
    pub allocations: usize,
}

impl Usage {
    /// Inputs with different signatures took different ways through the decoder; a weak substitute for coverage.
    pub fn signature(&self) -> (usize, u32) {
        // Exact while there are few, then in 256 steps between each power of two and the next.
        let step = self.allocations.checked_ilog2().unwrap_or(0).saturating_sub(8);
        (self.allocations >> step << step, self.total_bytes.checked_ilog2().unwrap_or(0))
    }
}

/// Counts while a measurement runs, and leaves the rest to the system's allocator.
pub struct Counting;

// SAFETY: every call is passed to the system's allocator unchanged, except that an allocation may be refused with null,
// which the contract allows.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !count(layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if MEASURING.load(Ordering::Relaxed) {
            let _ = CURRENT_BYTES.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| {
                Some(bytes.saturating_sub(layout.size()))
            });
        }
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !count(layout.size()) {
            return ptr::null_mut();
        }
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }
}

/// Runs `body`, which works on `input`, and says what it allocated. One measurement at a time.
pub fn measure<T>(input: &[u8], body: impl FnOnce() -> T) -> (T, Usage) {
    INPUT.store(input.as_ptr().cast_mut(), Ordering::Relaxed);
    INPUT_BYTES.store(input.len(), Ordering::Relaxed);
    for counter in [&CURRENT_BYTES, &PEAK_BYTES, &TOTAL_BYTES, &ALLOCATIONS] {
        counter.store(0, Ordering::Relaxed);
    }
    MEASURING.store(true, Ordering::Relaxed);
    let result = body();
    MEASURING.store(false, Ordering::Relaxed);
    let usage = Usage {
        peak_bytes: PEAK_BYTES.load(Ordering::Relaxed),
        total_bytes: TOTAL_BYTES.load(Ordering::Relaxed),
        allocations: ALLOCATIONS.load(Ordering::Relaxed),
    };
    (result, usage)
}

/// Where an input is saved whose single allocation is refused; the process aborts then.
pub fn write_oversized_input_to(path: &Path) {
    if let Ok(mut place) = OVERSIZED.lock() {
        *place = Some(path.to_owned());
    }
}

/// Counts an allocation; false when it has to be refused.
fn count(bytes: usize) -> bool {
    if !MEASURING.load(Ordering::Relaxed) {
        return true;
    }
    if bytes > SINGLE_BYTES_MAX {
        // What follows allocates itself, and is not the decoder's.
        MEASURING.store(false, Ordering::Relaxed);
        save_input(bytes);
        return false;
    }
    ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    TOTAL_BYTES.fetch_add(bytes, Ordering::Relaxed);
    let current = CURRENT_BYTES.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK_BYTES.fetch_max(current, Ordering::Relaxed);
    true
}

fn save_input(bytes: usize) {
    let Ok(place) = OVERSIZED.try_lock() else { return };
    let Some(path) = place.as_ref() else { return };
    // SAFETY: set by `measure`, whose caller holds the input until the measurement ends.
    let input =
        unsafe { slice::from_raw_parts(INPUT.load(Ordering::Relaxed), INPUT_BYTES.load(Ordering::Relaxed)) };
    let _ = fs::write(path, input);
    eprintln!("not ok fuzz: an allocation of {bytes} bytes; the input is in {}", path.display());
}
