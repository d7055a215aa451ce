//! Hostile files of every format: the functions of the fuzz targets, on arbitrary bytes and on damaged good files.

mod counting_allocator;
#[path = "../fuzz/inputs.rs"]
mod inputs;

use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// One test: the allocator counts for the whole process.
#[test]
fn no_input_makes_a_parser_panic_or_hoard() {
    for (name, target) in inputs::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(name);
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let seeds: Vec<Vec<u8>> = paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        assert!(!seeds.is_empty(), "{} is empty", folder.display());
        seeds.iter().for_each(|seed| target(seed));

        let mut runner = TestRunner::new(Config { cases: 5000, failure_persistence: None, ..Config::default() });
        let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..4), 1..6);
        let damaged = (prop::sample::select(seeds), damage).prop_map(|(mut bytes, damage)| {
            for (at, byte, kind) in damage {
                let at = at.index(bytes.len().max(1)).min(bytes.len());
                match kind {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, byte),
                    2 if at < bytes.len() => drop(bytes.remove(at)),
                    _ if at < bytes.len() => bytes[at] = byte,
                    _ => {}
                }
            }
            bytes
        });
        let input = prop_oneof![1 => any::<Vec<u8>>(), 4 => damaged];
        let outcome = runner.run(&input, |bytes| {
            target(&bytes);
            Ok(())
        });
        outcome.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}
