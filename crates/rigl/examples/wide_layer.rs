//! Trains one layer of a million inputs and a million outputs with GSE, and prints what a step takes for five numbers of weights.
//!
//! ```text
//! cargo run --release -p rigl --features autograd --example wide_layer [-- SIZE WEIGHTS]
//! ```
//!
//! The layer has SIZE inputs and outputs, 1,000,000 unless said otherwise, and a fifth, two fifths … all of WEIGHTS, 10,000,000.
//! Times are those of whole steps of 32 samples with Adam, an update of the topology in every fourth step included: forward, loss,
//! backward, sampling, growth, the new plan, and the moved optimizer slots.

use std::time::Instant;

use autograd::optim::{AdamOptions, OptimizerOptions};
use rigl::{MethodOptions, ScheduleOptions, SparseLoop, UpdateSchedule, build_method};
use sparse_kernels::cpu::Cpu;
use sparse_kernels::random::Key;
use sparse_kernels::{PointwiseLoss, Storage, StripLayout, Strips};

const SAMPLES: usize = 32;
const INTERVAL: u64 = 4;
const UPDATES: u64 = 2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<usize>());
    let size = numbers.next().transpose()?.unwrap_or(1_000_000);
    let largest = numbers.next().transpose()?.unwrap_or(10_000_000);
    println!("{:>10} {:>12} {:>14} {:>10}", "weights", "a step, s", "an update, s", "peak, GB");
    let mut points = vec![];
    for fifth in 1..=5 {
        let weights = fifth * largest / 5;
        let [step, update] = train(size, weights as f64 / (size as f64 * size as f64))?;
        println!("{weights:>10} {step:>12.3} {update:>14.3} {:>10}", peak().unwrap_or_else(|| "?".to_owned()));
        points.push((weights as f64, step));
    }
    let (slope, r_squared) = line(&points);
    println!("a step takes {:.1} ns a weight; R² of a line: {r_squared:.4}", 1e9 * slope);
    Ok(())
}

/// Seconds of a step, the updates shared among all, and those that a step with an update takes beyond the others.
fn train(size: usize, density: f64) -> Result<[f64; 2], Box<dyn std::error::Error>> {
    let cpu = Cpu::new(std::thread::available_parallelism()?.get(), None)?;
    // One interval to warm up.
    let steps = INTERVAL * (UPDATES + 1);
    let schedule = UpdateSchedule::new(ScheduleOptions {
        begin_step: INTERVAL,
        update_interval: INTERVAL,
        end_step: Some(steps + 1),
        ..ScheduleOptions::for_steps(steps)
    })?;
    let mut net = SparseLoop::new(&cpu, build_method("gse", &MethodOptions::new(schedule, steps))?);
    let layer = net.linear("wide", [size, size], density, Key::new(1))?;
    net.optimize(OptimizerOptions::Adam(AdamOptions::default()))?;
    let layout = StripLayout::sparse(SAMPLES, size);
    let key = Key::new(2);
    let inputs: Vec<f32> = (0..layout.len()).map(|i| key.uniform(i as u64)).collect();
    let targets = vec![0.0; layout.len()];
    let mut seconds = vec![];
    for _ in 0..steps {
        let start = Instant::now();
        net.step(1e-3, |tape| {
            let x = tape.input(Strips { layout, data: cpu.uploaded(&inputs)? }, false);
            let t = tape.input(Strips { layout, data: cpu.uploaded(&targets)? }, false);
            let y = tape.apply_bias_relu(layer.weight, layer.bias, false, x)?;
            tape.pointwise_loss(PointwiseLoss::BinaryCrossEntropy, y, t)
        })?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    // A step with an update is slower than any other.
    let mut timed = seconds.split_off(INTERVAL as usize);
    timed.sort_by(f64::total_cmp);
    let (plain, updates) = timed.split_at(timed.len() - UPDATES as usize);
    let mean = |times: &[f64]| times.iter().sum::<f64>() / times.len() as f64;
    Ok([mean(&timed), mean(updates) - mean(plain)])
}

/// The most memory that this process has had so far, in GB, where the system says it.
fn peak() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(format!("{:.2}", kib * 1024.0 / 1e9))
}

/// The slope of the line through the points with the smallest squared errors, and its R².
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let n = points.len() as f64;
    let (mean_x, mean_y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|&(x, y)| of(x - mean_x, y - mean_y)).sum::<f64>();
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    (xy / xx, xy * xy / (xx * yy))
}
