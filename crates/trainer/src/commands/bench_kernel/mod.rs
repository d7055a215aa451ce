//! `rigl bench kernel`: one operation at one shape over densities, against the dense operation.

pub(super) mod arguments;
mod case;
mod check;
mod few_lanes;
#[cfg(feature = "gpu")]
mod half_strips;
mod operands;
mod record;
mod reference_file;
mod stored;
mod subject;

use sparse_kernels::cpu::Cpu;
#[cfg(feature = "gpu")]
use sparse_kernels::gpu::{Gpu, HalfType};

pub use self::arguments::BenchKernelArgs;
#[cfg(feature = "gpu")]
use self::arguments::Dtype;
use self::case::Measurement;
use self::record::{Fractions, KernelRecord, Yardstick, limit_fractions};
use self::reference_file::{ReferenceFile, Wanted};
use self::subject::{Subject, subjects};
use super::machine::MachineArgs;
use crate::device::{ComputeDevice, Device, Place};
use crate::report::{Table, print_record, print_text};

/// Runs the command.
///
/// # Errors
/// If an option is impossible, the pattern or the reference is unavailable, the instruction set is missing, or a result is
/// wrong.
pub fn run(args: &BenchKernelArgs) -> crate::Result<()> {
    let subjects = subjects(args)?;
    let machine = Machine::open(&args.machine)?;
    let place = machine.place();
    let reference = args.dense_reference.as_deref().map(ReferenceFile::read).transpose()?;
    let mut table = Table::new(KernelRecord::HEADINGS);
    let mut title = None;
    let mut failed = Vec::new();
    for subject in &subjects {
        let wanted = Wanted {
            name: subject.dense_name(),
            sizes: &subject.layer.sizes(),
            stride_and_groups: subject.layer.stride_and_groups(),
            threads: place.threads,
        };
        // Before the measurement, so that a file without it is told at once.
        let reference = reference.as_ref().map(|file| file.fastest(&wanted)).transpose()?;
        let (measurement, fractions) = machine.measure(args, subject)?;
        let record = KernelRecord::new(args, &place, subject, measurement, fractions, reference);
        if record.failed {
            failed.push(record.density);
        }
        if args.machine.json {
            print_record(&record)?;
        } else {
            table.row(record.row());
            title.get_or_insert_with(|| (record.title(), Yardstick::of(subject)));
        }
    }
    if let Some((title, limit)) = title {
        print_text(format_args!("{title} on {}\n{table}", place.with_isa()))?;
        print_text(format_args!(
            "effic.: dense time · density / time\nlimit: against {limit}\nbytes: against reading every operand once"
        ))?;
    }
    if !failed.is_empty() {
        return Err(format!("{} gave wrong results at density {failed:?}", args.op).into());
    }
    Ok(())
}

/// What a measurement runs on.
enum Machine {
    Cpu(Cpu),
    #[cfg(feature = "gpu")]
    Gpu(Box<Gpu>),
}

impl Machine {
    fn open(args: &MachineArgs) -> crate::Result<Self> {
        Ok(match args.device {
            Device::Cpu => Self::Cpu(args.cpu()?),
            #[cfg(feature = "gpu")]
            Device::Gpu(index) => Self::Gpu(Box::new(args.gpu(index)?)),
        })
    }

    fn place(&self) -> Place {
        match self {
            Self::Cpu(cpu) => cpu.place(),
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => gpu.place(),
        }
    }

    /// A measurement, and what fractions of the processor's limits its rate is.
    fn measure(&self, args: &BenchKernelArgs, subject: &Subject) -> crate::Result<(Measurement, Fractions)> {
        match self {
            Self::Cpu(cpu) => {
                let limits = cpu.limits();
                let measurement = match subject.few_lanes() {
                    Some(lanes) => few_lanes::measure(cpu, subject, lanes, &args.machine)?,
                    None => case::measure(cpu, subject, &args.machine)?,
                };
                // Measured again: clocks vary, and a limit must not be lower than what runs under it.
                let fractions = limit_fractions(cpu, limits.max(cpu.limits()), subject, &measurement);
                Ok((measurement, fractions))
            }
            #[cfg(feature = "gpu")]
            Self::Gpu(gpu) => {
                let measurement = match args.dtype {
                    Dtype::F32 => case::measure(&**gpu, subject, &args.machine),
                    Dtype::F16 => half_strips::measure::<half::f16>(gpu, subject, &args.machine, HalfType::F16),
                    Dtype::Bf16 => half_strips::measure::<half::bf16>(gpu, subject, &args.machine, HalfType::Bf16),
                };
                Ok((measurement?, Fractions::default()))
            }
        }
    }
}
