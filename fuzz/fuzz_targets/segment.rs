#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    posthaste_storage::fuzz::segment_file(1, data);
});
