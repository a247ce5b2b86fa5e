#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plane_drone::proxy::fuzzing::response_head(data));
