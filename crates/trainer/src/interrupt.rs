//! Ctrl-C, and other signals that end a process before its time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{io, process, thread};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::error::Context;

/// Exit code of a command that was interrupted.
pub const EXIT_CODE: u8 = 130;

/// One press of Ctrl-C may arrive more than once: wrappers pass on what the whole process group gets too.
const ONE_PRESS: Duration = Duration::from_millis(250);

/// Whether the process has been asked to stop. Clones share the answer.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, Ctrl-C (and SIGTERM, which a job scheduler sends) only sets this flag; a second one ends the process
    /// at once with [`EXIT_CODE`].
    ///
    /// # Errors
    /// If the system refuses.
    pub fn install() -> crate::Result<Self> {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        let wait = move |mut signals: Signals| {
            let mut first: Option<Instant> = None;
            for _ in signals.forever() {
                flag.request();
                if first.get_or_insert_with(Instant::now).elapsed() > ONE_PRESS {
                    process::exit(EXIT_CODE.into());
                }
            }
        };
        let thread = |signals| thread::Builder::new().name("signals".to_owned()).spawn(move || wait(signals));
        Signals::new([SIGINT, SIGTERM]).and_then(thread).context(|| "cannot handle Ctrl-C")?;
        Ok(interrupt)
    }

    /// Whether to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Asks to stop, as a first Ctrl-C does.
    pub fn request(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A write beyond the size that the system allows for a file (SIGXFSZ) becomes an error of that write, where it would
/// kill the process.
///
/// # Errors
/// If the system refuses.
pub fn make_size_limits_errors() -> io::Result<()> {
    #[cfg(unix)]
    signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default())?;
    Ok(())
}
