//! What has been asked of the device and not yet been handed to it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::device::{Device, Pipeline};
use super::kernel::{Operand, PARAMETER_WORDS, Work};
use super::profile::Timer;
use crate::BackendError;

/// Launches handed over at once at most; what their parameters take is allocated once.
const CAPACITY: usize = 2048;
/// Steps that may be on their way while the host prepares the next.
const IN_FLIGHT: usize = 2;
const SLOT_BYTES: usize = 4 * PARAMETER_WORDS;

/// One entry of the queue.
#[derive(Debug)]
pub(super) enum Command {
    /// A kernel.
    Launch {
        name: &'static str,
        pipeline: Arc<Pipeline>,
        group: wgpu::BindGroup,
        parameters: u32,
        grid: [u32; 2],
        work: Work,
    },
    /// Bytes from some place of one buffer to some place of another.
    Copy { from: wgpu::Buffer, from_at: u64, to: wgpu::Buffer, at: u64, bytes: u64 },
    /// Zeros from the start of a buffer.
    Clear { to: wgpu::Buffer, bytes: u64 },
}

/// Pipeline, and each operand's buffer, offset and size.
type GroupKey = (u64, Vec<(u64, u64, u64)>);

/// The queue, and what it needs to be handed over.
#[derive(Debug)]
pub(super) struct Recorder {
    commands: Vec<Command>,
    /// Buffers that the commands use.
    touched: HashSet<u64>,
    parameters: Vec<u32>,
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    parameter_buffer: wgpu::Buffer,
    parameter_group: wgpu::BindGroup,
    in_flight: VecDeque<wgpu::SubmissionIndex>,
    pub timer: Option<Timer>,
    /// Times that commands were handed over.
    pub submissions: u64,
    /// Launches handed over.
    pub launches: u64,
}

impl Recorder {
    pub fn new(device: &Device) -> Self {
        let (layout, device) = (&device.parameter_layout, &device.raw);
        let parameter_buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("parameters"),
            size: (CAPACITY * SLOT_BYTES) as u64,
            usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        let binding = wgpu::BufferBinding {
            buffer: &parameter_buffer,
            offset: 0,
            size: wgpu::BufferSize::new(SLOT_BYTES as u64),
        };
        let entries = [wgpu::BindGroupEntry { binding: 0, resource: wgpu::BindingResource::Buffer(binding) }];
        let descriptor = wgpu::BindGroupDescriptor { label: Some("parameters"), layout, entries: &entries };
        let parameter_group = device.create_bind_group(&descriptor);
        Self {
            commands: Vec::new(),
            touched: HashSet::new(),
            parameters: Vec::new(),
            groups: HashMap::new(),
            parameter_buffer,
            parameter_group,
            in_flight: VecDeque::new(),
            timer: None,
            submissions: 0,
            launches: 0,
        }
    }

    pub fn push(&mut self, command: Command) {
        self.commands.push(command);
    }

    pub fn touch(&mut self, buffers: impl IntoIterator<Item = u64>) {
        self.touched.extend(buffers);
    }

    /// Whether a command that waits uses the buffer.
    pub fn uses(&self, buffer: u64) -> bool {
        self.touched.contains(&buffer)
    }

    pub fn is_full(&self) -> bool {
        self.parameters.len() >= CAPACITY * PARAMETER_WORDS
    }

    /// Keeps the parameters of a launch; where they will stand.
    pub fn parameters(&mut self, words: &[u32]) -> u32 {
        assert!(words.len() <= PARAMETER_WORDS, "{} words of parameters", words.len());
        let at = self.parameters.len();
        self.parameters.extend_from_slice(words);
        self.parameters.resize(at + PARAMETER_WORDS, 0);
        4 * at as u32
    }

    /// The operands of a kernel as the device wants them: made once for buffers that come again.
    pub fn bind_group(&mut self, device: &Device, pipeline: &Pipeline, operands: &[Operand<'_>]) -> wgpu::BindGroup {
        let key = (pipeline.id, operands.iter().map(|o| (o.id, o.offset, o.bytes)).collect());
        let make = || {
            let entries: Vec<_> = operands
                .iter()
                .zip(0..)
                .map(|(o, binding)| {
                    let size = wgpu::BufferSize::new(o.bytes);
                    let part = wgpu::BufferBinding { buffer: o.raw, offset: o.offset, size };
                    wgpu::BindGroupEntry { binding, resource: wgpu::BindingResource::Buffer(part) }
                })
                .collect();
            let layout = &pipeline.layout;
            device.raw.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &entries })
        };
        self.groups.entry(key).or_insert_with(make).clone()
    }

    /// Hands everything over, and waits if the device is too far behind.
    pub fn flush(&mut self, device: &Device) -> Result<(), BackendError> {
        let freed = device.take_freed();
        if !freed.is_empty() {
            self.groups.retain(|(_, operands), _| !operands.iter().any(|(id, _, _)| freed.contains(id)));
        }
        if self.commands.is_empty() {
            return device.check();
        }
        if !self.parameters.is_empty() {
            device.queue.write_buffer(&self.parameter_buffer, 0, bytemuck::cast_slice(&self.parameters));
        }
        let mut encoder = device.raw.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        // Timed launches have a pass each, others share one.
        let timed = self.timer.is_some();
        let same_pass =
            |a: &Command, b: &Command| !timed && matches!((a, b), (Command::Launch { .. }, Command::Launch { .. }));
        for run in self.commands.chunk_by(same_pass) {
            match &run[0] {
                Command::Copy { from, from_at, to, at, bytes } => {
                    encoder.copy_buffer_to_buffer(from, *from_at, to, *at, *bytes);
                }
                Command::Clear { to, bytes } => encoder.clear_buffer(to, 0, Some(*bytes)),
                Command::Launch { name, work, .. } => {
                    let timestamp_writes = self.timer.as_mut().and_then(|timer| timer.next(name, *work));
                    let descriptor = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
                    let mut pass = encoder.begin_compute_pass(&descriptor);
                    let mut current = None;
                    for command in run {
                        let Command::Launch { pipeline, group, parameters, grid, .. } = command else { continue };
                        if current != Some(pipeline.id) {
                            pass.set_pipeline(&pipeline.raw);
                            current = Some(pipeline.id);
                        }
                        pass.set_bind_group(0, group, &[]);
                        pass.set_bind_group(1, &self.parameter_group, &[*parameters]);
                        pass.dispatch_workgroups(grid[0], grid[1], 1);
                        self.launches += 1;
                    }
                }
            }
        }
        if let Some(timer) = &mut self.timer {
            timer.resolve(&mut encoder);
        }
        let index = device.queue.submit([encoder.finish()]);
        self.submissions += 1;
        self.commands.clear();
        self.parameters.clear();
        self.touched.clear();
        if let Some(timer) = &mut self.timer {
            timer.collect(device)?;
        }
        self.in_flight.push_back(index);
        if self.in_flight.len() > IN_FLIGHT
            && let Some(oldest) = self.in_flight.pop_front()
        {
            device.wait(Some(oldest))?;
        }
        device.check()
    }
}
