//! Every shader parses and validates, with no GPU and no driver, within what every implementation of WebGPU grants.
#![cfg(feature = "gpu")]

use std::collections::BTreeSet;
use std::path::Path;

use wgpu::naga::front::wgsl;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu::naga::{AddressSpace, GlobalVariable, Handle, Module};

#[path = "../src/gpu/shaders.rs"]
mod joined;

/// What every implementation of WebGPU has: no subgroups, no arithmetic in f16, no immediates.
const CORE: Capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;

/// Path and text of each shader, for subgroups or not.
fn shaders(for_subgroups: bool) -> impl Iterator<Item = (&'static str, &'static str)> {
    let named = joined::ALL.iter().map(|&(files, text)| (*files.last().unwrap(), text));
    named.filter(move |(path, _)| path.starts_with("subgroups/") == for_subgroups)
}

fn module(path: &str, source: &str, capabilities: Capabilities) -> Module {
    let module = wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string_with_path(source, path)));
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if let Err(e) = validator.validate(&module) {
        panic!("{}", e.emit_to_string_with_path(source, path));
    }
    module
}

#[test]
fn every_file_is_part_of_a_shader() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut found = BTreeSet::new();
    for (prefix, folder) in ["", "shared/", "subgroups/"].map(|prefix| (prefix, folder.join(prefix))) {
        let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        found.extend(
            names.filter(|name| !["shared", "subgroups"].contains(&&**name)).map(|name| format!("{prefix}{name}")),
        );
    }
    let (mut own, mut shared) = (BTreeSet::new(), BTreeSet::new());
    for (files, _) in joined::ALL {
        let (last, before) = files.split_last().unwrap();
        assert!(!last.starts_with("shared/") && own.insert((*last).to_owned()), "{last} stands in two shaders");
        assert!(before.iter().all(|file| file.starts_with("shared/")), "{last}: {before:?}");
        shared.extend(before.iter().map(|&file| file.to_owned()));
    }
    for file in &shared {
        let users = joined::ALL.iter().filter(|(files, _)| files.contains(&&**file)).count();
        assert!(users > 1, "{file} is shared by nobody");
    }
    own.append(&mut shared);
    assert_eq!(found, own);
}

#[test]
fn every_shader_is_valid() {
    for (path, source) in shaders(false) {
        let module = module(path, source, CORE);
        assert!(!module.entry_points.is_empty(), "{path} has no entry point");
    }
}

/// Those for subgroups: a file has an entry point, or a function that stands in for another shader's.
#[test]
fn every_shader_for_subgroups_is_valid() {
    for (path, source) in shaders(true) {
        let module = module(path, source, CORE | Capabilities::SUBGROUP);
        assert!(module.entry_points.len() + module.functions.len() > 0, "{path} has no function");
    }
}

/// The limits of the baseline: 8 storage buffers an entry point.
#[test]
fn no_kernel_has_more_buffers_than_every_device_grants() {
    for (path, source) in shaders(false) {
        let module = module(path, source, CORE);
        let mut validator = Validator::new(ValidationFlags::all(), CORE);
        let info = validator.validate(&module).unwrap();
        for (i, entry) in module.entry_points.iter().enumerate() {
            let used = |(handle, variable): (Handle<GlobalVariable>, &GlobalVariable)| {
                let is_storage = matches!(variable.space, AddressSpace::Storage { .. });
                is_storage && !info.get_entry_point(i)[handle].is_empty()
            };
            let buffers = module.global_variables.iter().filter(|&(handle, variable)| used((handle, variable))).count();
            assert!(buffers <= 8, "{path}: {} uses {buffers} storage buffers", entry.name);
        }
    }
}
