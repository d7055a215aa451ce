#![no_main]

#[path = "../../tests/counting_allocator.rs"]
mod counting_allocator;
#[path = "../inputs.rs"]
#[allow(dead_code, reason = "this target is one of several")]
mod inputs;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| inputs::svmlight(bytes));
