#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    posthaste_sim::session::fuzz_mqtt(data);
});
