//! The products of linear layers against the reference, and the queue's promises.

use proptest::prelude::*;

use super::testing::{gpu, gpu_with_limit, open};
use super::{Gpu, GpuOptions};
use crate::testing::linear::{Case, case};
use crate::testing::{buffer, host, poison, refusals};
use crate::{BackendError, Storage};

fn verify(gpu: &Gpu, case: &Case) {
    case.verify("gpu", gpu);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn products_agree_with_the_reference(
        nrows in 0usize..80, ncols in 0usize..80, lanes in 0usize..140, strip in prop::sample::select(vec![16, 32, 64]),
        density in 0.0f32..1.0, shape in 0u8..6, seed in 0u64..1_000_000, exact: bool
    ) {
        if let Some(gpu) = gpu() {
            verify(gpu, &case([nrows, ncols, lanes], strip, (density * density, shape), seed, exact));
        }
    }
}

#[test]
fn edges() {
    let Some(gpu) = gpu() else { return };
    for (nrows, ncols, lanes) in
        [(0, 5, 5), (5, 0, 5), (5, 5, 0), (1, 1, 1), (1, 70, 33), (70, 1, 31), (3, 9, 15), (3, 9, 16), (3, 9, 17)]
    {
        for (density, strip) in [(0.0, 32), (1.0, 32), (0.5, 16), (0.5, 64)] {
            verify(gpu, &case([nrows, ncols, lanes], strip, (density, 5), 1, true));
            verify(gpu, &case([nrows, ncols, lanes], strip, (density, 5), 2, false));
        }
    }
}

/// Many workgroups, and rows of very different lengths.
#[test]
fn large_products() {
    let Some(gpu) = gpu() else { return };
    verify(gpu, &case([700, 900, 130], 32, (0.25, 5), 3, true));
    verify(gpu, &case([900, 600, 66], 64, (0.3, 1), 4, false));
    // So many workgroups that each invocation has two quads of lanes.
    verify(gpu, &case([9000, 8, 150], 32, (0.4, 5), 5, false));
}

/// More rows than a dimension of the grid has workgroups, and buffers larger than what a kernel may see.
#[test]
fn more_rows_than_a_grid_and_buffers_in_windows() {
    if let Some(gpu) = gpu() {
        verify(gpu, &case([70_001, 3, 5], 16, (0.3, 5), 3, true));
    }
    if let Some(gpu) = gpu_with_limit(16 << 10) {
        verify(&gpu, &case([60, 50, 300], 32, (0.9, 5), 5, true));
        verify(&gpu, &case([200, 36, 70], 16, (0.6, 5), 6, false));
        verify(&gpu, &case([5, 9, 3000], 16, (0.5, 5), 7, true));
    }
}

/// Variants for what a device can do beyond the baseline change no bit.
#[test]
fn subgroups_change_no_bit() {
    let Some(gpu) = gpu() else { return };
    let Some(portable) = open(GpuOptions { portable: true, ..GpuOptions::default() }) else { return };
    assert!(!portable.has_subgroup_exchange().unwrap());
    let report = gpu.report();
    let [least, most] = report.subgroup_sizes;
    // Those of four are too small; others all give neighbours places side by side, as far as is known.
    let expected = report.has_subgroups && least >= 8 && most <= 128;
    assert_eq!(gpu.has_subgroup_exchange().unwrap(), expected, "{report}");
    let bits = |gpu: &Gpu, case: &Case| -> Vec<Vec<u32>> {
        case.run(gpu).into_iter().map(|values| values.into_iter().map(f32::to_bits).collect()).collect()
    };
    for (sizes, strip, density) in [([70, 90, 130], 32, 0.3), ([3, 200, 17], 16, 0.9), ([40, 3, 500], 64, 1.0)] {
        let case = case(sizes, strip, (density, 5), 8, false);
        assert_eq!(bits(gpu, &case), bits(&portable, &case), "{sizes:?}");
    }
}

#[test]
fn uploads_wait_for_what_is_queued_before_them() {
    let Some(gpu) = gpu() else { return };
    let mut source = buffer(gpu, &[1.0, 2.0, 3.0]);
    let mut sum = gpu.zeros(3).unwrap();
    gpu.add(&source, &mut sum).unwrap();
    gpu.upload(&[10.0, 20.0, 30.0], &mut source).unwrap();
    gpu.add(&source, &mut sum).unwrap();
    assert_eq!(host(gpu, &sum), [11.0, 22.0, 33.0]);
}

#[test]
fn gathering_fills_what_has_no_source_with_zeros() {
    let Some(gpu) = gpu_with_limit(512) else { return };
    let source: Vec<f32> = (0..1000).map(|i| i as f32 + 0.5).collect();
    let map: Vec<u32> = (0..700).map(|i| if i % 7 == 0 { u32::MAX } else { (i * 37) % 1000 }).collect();
    let from = buffer(&gpu, &source);
    let mut to = poison(&gpu, 700);
    gpu.gather(&from, &map, &mut to).unwrap();
    let expected: Vec<f32> = map.iter().map(|&i| source.get(i as usize).copied().unwrap_or(0.0)).collect();
    assert_eq!(host(&gpu, &to), expected);
    let message = gpu.gather(&from, &vec![1000; 700], &mut to).unwrap_err().to_string();
    assert!(message.contains("1000"), "{message}");
}

/// Steps that repeat allocate nothing and are handed over once each.
#[test]
fn a_step_is_submitted_once() {
    let Some(gpu) = gpu_with_limit(u64::MAX) else { return };
    let (a, mut b) = (buffer(&gpu, &[1.0; 100]), gpu.zeros(100).unwrap());
    gpu.submit().unwrap();
    let before = gpu.submissions_and_launches();
    let bytes = gpu.allocated_bytes();
    for _ in 0..5 {
        (0..10).for_each(|_| gpu.add(&a, &mut b).unwrap());
        gpu.submit().unwrap();
    }
    let after = gpu.submissions_and_launches();
    assert_eq!([after[0] - before[0], after[1] - before[1]], [5, 50]);
    assert_eq!(gpu.allocated_bytes(), bytes);
    assert_eq!(host(&gpu, &b), [50.0; 100]);
    drop((a, b));
    assert!(gpu.allocated_bytes() < bytes);
}

#[test]
fn what_there_is_no_room_for_is_refused_with_its_size() {
    let Some(gpu) = gpu() else { return };
    let message = gpu.zeros(1 << 40).unwrap_err().to_string();
    assert!(message.contains(&(4u64 << 40).to_string()), "{message}");
}

#[test]
fn kernels_are_timed_by_name() {
    let Some(gpu) = gpu_with_limit(u64::MAX) else { return };
    if !gpu.report().has_timestamps {
        println!("not run: {} has no clock", gpu.report());
        return;
    }
    gpu.start_profile().unwrap();
    let (a, mut b) = (buffer(&gpu, &[1.0; 1000]), gpu.zeros(1000).unwrap());
    (0..3).for_each(|_| gpu.add(&a, &mut b).unwrap());
    let profile = gpu.take_profile().unwrap();
    assert_eq!(profile.len(), 1);
    assert_eq!((profile[0].name, profile[0].launches, profile[0].bytes), ("add", 3, 36_000));
    assert!(profile[0].nanoseconds > 0.0);
    assert!(gpu.take_profile().unwrap().is_empty());
}

/// A device that is gone is an error of every call from then on, and no panic.
#[test]
fn a_lost_device_is_an_error() {
    let Some(gpu) = gpu_with_limit(u64::MAX) else { return };
    let (a, mut b) = (buffer(&gpu, &[1.0; 100]), gpu.zeros(100).unwrap());
    gpu.add(&a, &mut b).unwrap();
    gpu.synchronize().unwrap();
    gpu.close();
    let is_lost = |result: Result<(), BackendError>| matches!(result, Err(BackendError::DeviceLost { .. }));
    // Queued as ever; what hands it over learns of it.
    let queued = gpu.add(&a, &mut b).and_then(|()| gpu.synchronize());
    assert!(is_lost(queued));
    assert!(is_lost(gpu.download(&b, &mut [0.0; 100])));
    assert!(is_lost(gpu.upload(&[0.0; 100], &mut b)));
    assert!(is_lost(gpu.zeros(10).map(drop)));
}

#[test]
fn every_wrong_operand_is_refused() {
    let Some(gpu) = gpu() else { return };
    refusals::products(gpu);
    refusals::convolutions(gpu);
    #[cfg(feature = "nn")]
    refusals::batch_norm(gpu);
}
