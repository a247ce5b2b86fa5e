#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| plane_controller::dns::fuzzing::dns(data));
