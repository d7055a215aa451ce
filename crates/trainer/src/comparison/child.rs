//! One run as a process of its own, so that its peak memory is its own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use sysinfo::{Pid, ProcessesToUpdate, Signal, System};

use crate::error::Context;
use crate::interrupt::{EXIT_CODE, Interrupt};
use crate::launch;

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// At its end.
    Finished,
    /// It was asked to stop, and has saved its state.
    Interrupted,
    /// With this message.
    Failed(String),
}

/// What a process says.
#[derive(Debug)]
pub enum Said {
    /// A record on standard output.
    Record(Value),
    /// A line on standard error.
    Log(String),
}

/// How long to wait for a word before looking for an interrupt.
const TURN: Duration = Duration::from_millis(50);

/// Runs this program with `arguments`, by a launcher if there is one, and hands on what it says. An interrupt of this process is passed on, once.
///
/// # Errors
/// If the process cannot be started or waited for.
pub fn run_child(
    launcher: Option<&str>,
    arguments: &[OsString],
    interrupt: &Interrupt,
    mut hear: impl FnMut(Said),
) -> crate::Result<Outcome> {
    let mut command = launch::this_program(launcher)?;
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // Ctrl-C on a terminal reaches a whole group. The child gets it from here, or a press would count twice.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().context(|| "cannot start a run")?;
    let (sender, receiver) = mpsc::channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let record = |line: String| serde_json::from_str(&line).map_or(Said::Log(line), Said::Record);
    let readers = [reader(stdout, sender.clone(), record), reader(stderr, sender, Said::Log)];
    let (mut asked, mut failure) = (false, String::new());
    loop {
        if interrupt.requested() && !asked {
            asked = true;
            ask_to_stop(&mut child);
        }
        match receiver.recv_timeout(TURN) {
            Ok(said) => {
                if let Said::Log(line) = &said
                    && let Some(message) = failure_of(line)
                {
                    message.clone_into(&mut failure);
                }
                hear(said);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().context(|| "cannot wait for a run")?;
    readers.into_iter().flatten().for_each(|reader| drop(reader.join()));
    Ok(match status.code() {
        Some(0) => Outcome::Finished,
        Some(code) if code == i32::from(EXIT_CODE) => Outcome::Interrupted,
        // A launcher ends with a code of its own.
        _ if asked && launcher.is_some() => Outcome::Interrupted,
        _ if !failure.is_empty() => Outcome::Failed(failure),
        _ => Outcome::Failed(status.to_string()),
    })
}

/// The message of a line that says why a run failed, of one rank or all.
pub fn failure_of(line: &str) -> Option<&str> {
    let of_rank = line.strip_prefix("rank ").and_then(|line| line.split_once(": "));
    of_rank.map_or(line, |(_, line)| line).strip_prefix("error: ")
}

#[cfg(test)]
#[test]
fn failures_are_of_one_rank_or_all() {
    assert_eq!(failure_of("error: no room"), Some("no room"));
    assert_eq!(failure_of("rank 2: error: no room"), Some("no room"));
    assert_eq!([failure_of("a warning"), failure_of("rank 2: a warning")], [None; 2]);
}

fn reader<R: Read + Send + 'static>(
    stream: Option<R>,
    sender: Sender<Said>,
    say: impl Fn(String) -> Said + Send + 'static,
) -> Option<thread::JoinHandle<()>> {
    let stream = BufReader::new(stream?);
    Some(thread::spawn(move || {
        for line in stream.lines().map_while(Result::ok) {
            if sender.send(say(line)).is_err() {
                break;
            }
        }
    }))
}

/// As Ctrl-C does, where the system has signals; else for good.
fn ask_to_stop(child: &mut Child) {
    let pid = Pid::from_u32(child.id());
    let mut system = System::new();
    system.refresh_processes(ProcessesToUpdate::Some(&[pid]), false);
    let asked = system.process(pid).and_then(|process| process.kill_with(Signal::Interrupt));
    if asked.is_none() {
        // It has ended, or cannot be asked. What it has saved is there.
        let _ = child.kill();
    }
}
