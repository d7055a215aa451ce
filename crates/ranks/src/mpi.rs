//! Ranks that are processes, connected by the MPI library that is installed.
//!
//! Messages go from rank to rank, without collective operations: exchanges may then be begun in another order on each rank, as
//! their messages happen to come. Waiting asks again and again, so that it can end when nothing is heard for too long: MPI itself
//! knows no such end.

use std::ffi::{c_char, c_int};
use std::fmt;
use std::mem::MaybeUninit;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mpi::Threading;
use mpi::environment::Universe;
use mpi::ffi::{self, MPI_Comm, MPI_Request, MPI_Status};

use crate::{Exchange, RanksError, Transport};

/// The ranks of `mpirun`, or of the batch system that started this process.
pub struct MpiRanks {
    link: Arc<Link>,
    patience: Duration,
}

/// Tags wrap at this number: MPI guarantees tags up to 32767.
const TAGS: u64 = 1 << 15;

struct Link {
    rank: usize,
    count: usize,
    world: MPI_Comm,
    /// Held during each call: MPI was asked for one thread at a time.
    calls: Mutex<()>,
    /// Ends MPI when it goes.
    _universe: Universe,
}

// SAFETY: a communicator is a name for something in the library, which may be used by any thread, one at a time, as MPI was
// initialised with `Threading::Serialized`; `calls` sees to that.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

impl fmt::Debug for MpiRanks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MpiRanks").field("rank", &self.link.rank).field("count", &self.link.count).finish()
    }
}

impl MpiRanks {
    /// Joins the other processes. A rank that says nothing for as long as `patience` counts as lost.
    ///
    /// # Errors
    /// If MPI has been initialised before, or does not allow calls from several threads one at a time.
    pub fn join(patience: Duration) -> Result<Self, RanksError> {
        let failed = |message: &str| RanksError::Transport { rank: 0, message: message.to_owned() };
        let (universe, threading) = mpi::initialize_with_threading(Threading::Serialized)
            .ok_or_else(|| failed("MPI has been initialised already"))?;
        if threading < Threading::Serialized {
            return Err(failed(
                "this MPI allows calls from its first thread only; it must allow them from one at a time",
            ));
        }
        let (mut rank, mut count) = (0, 0);
        // SAFETY: MPI is initialised, the communicator is the library's own, and both numbers are there to be written.
        let world = unsafe {
            let world = ffi::RSMPI_COMM_WORLD;
            ffi::MPI_Comm_rank(world, &mut rank);
            ffi::MPI_Comm_size(world, &mut count);
            // Else an error would end the process before it could say what it was doing.
            ffi::MPI_Comm_set_errhandler(world, ffi::RSMPI_ERRORS_RETURN);
            world
        };
        let link =
            Link { rank: rank as usize, count: count as usize, world, calls: Mutex::new(()), _universe: universe };
        Ok(Self { link: Arc::new(link), patience })
    }
}

impl Link {
    fn checked(&self, code: c_int) -> Result<(), RanksError> {
        if code == ffi::MPI_SUCCESS as c_int {
            return Ok(());
        }
        let mut text = [0 as c_char; ffi::MPI_MAX_ERROR_STRING as usize];
        let mut length = 0;
        // SAFETY: the text has room for the longest message.
        unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr(), &mut length) };
        let bytes: Vec<u8> = text[..length as usize].iter().map(|&byte| byte as u8).collect();
        let message = String::from_utf8_lossy(&bytes).into_owned();
        Err(RanksError::Transport { rank: self.rank, message })
    }

    fn calls(&self) -> std::sync::MutexGuard<'_, ()> {
        self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Transport for MpiRanks {
    fn rank(&self) -> usize {
        self.link.rank
    }

    fn count(&self) -> usize {
        self.link.count
    }

    fn abort(&self, code: u8) -> ! {
        // SAFETY: MPI is initialised; nothing is used afterwards.
        unsafe { ffi::MPI_Abort(self.link.world, c_int::from(code)) };
        std::process::exit(code.into())
    }

    fn exchange(
        &self,
        number: u64,
        messages: Vec<Vec<u8>>,
        lengths: Vec<usize>,
    ) -> Result<Box<dyn Exchange>, RanksError> {
        let Link { rank: me, world, .. } = *self.link;
        let tag = (number % TAGS) as c_int;
        let receives: Vec<_> = lengths.iter().map(|&length| vec![0u8; length]).collect();
        let pending = Pending { link: self.link.clone(), requests: vec![], expected: vec![], patience: self.patience };
        let mut exchange = MpiExchange { pending, sends: messages, receives };
        let (got, expected) = (exchange.sends[me].len(), lengths[me]);
        if got != expected {
            return Err(RanksError::Length { rank: me, from: me, expected, got });
        }
        exchange.receives[me] = std::mem::take(&mut exchange.sends[me]);
        let _calls = self.link.calls();
        // What has no length is not sent: both sides know it. Receives stand first, so that no message has to wait for its place.
        for (from, receive) in exchange.receives.iter_mut().enumerate() {
            if from != me && !receive.is_empty() {
                let length = length_of(me, receive)?;
                let mut request = null();
                // SAFETY: the buffer has that many bytes, and neither moves nor goes before the request is done: see
                // `MpiExchange`.
                let code = unsafe {
                    let byte = ffi::RSMPI_UINT8_T;
                    ffi::MPI_Irecv(receive.as_mut_ptr().cast(), length, byte, from as c_int, tag, world, &mut request)
                };
                self.link.checked(code)?;
                exchange.pending.requests.push(request);
                exchange.pending.expected.push((from, receive.len()));
            }
        }
        for (to, send) in exchange.sends.iter().enumerate() {
            if to != me && !send.is_empty() {
                let length = length_of(me, send)?;
                let mut request = null();
                // SAFETY: as above.
                let code = unsafe {
                    let byte = ffi::RSMPI_UINT8_T;
                    ffi::MPI_Isend(send.as_ptr().cast(), length, byte, to as c_int, tag, world, &mut request)
                };
                self.link.checked(code)?;
                exchange.pending.requests.push(request);
            }
        }
        Ok(Box::new(exchange))
    }

    fn sum(&self, _: u64, numbers: Vec<f32>) -> Result<Box<dyn Exchange>, RanksError> {
        let Link { rank, world, .. } = *self.link;
        let length = c_int::try_from(numbers.len()).map_err(|e| too_long(rank, size_of_val(&numbers[..]), e))?;
        let (link, requests, patience) = (self.link.clone(), vec![null()], self.patience);
        let pending = Pending { link, requests, expected: vec![], patience };
        let sum = vec![0.0; numbers.len()];
        let mut exchange = MpiSum { pending, numbers, sum };
        let code = {
            let _calls = self.link.calls();
            // SAFETY: both buffers hold that many numbers, and neither moves nor goes before the request is done: see `MpiSum`.
            unsafe {
                let (float, add) = (ffi::RSMPI_FLOAT, ffi::RSMPI_SUM);
                let (from, to) = (exchange.numbers.as_ptr().cast(), exchange.sum.as_mut_ptr().cast());
                ffi::MPI_Iallreduce(from, to, length, float, add, world, &mut exchange.pending.requests[0])
            }
        };
        self.link.checked(code)?;
        Ok(Box::new(exchange))
    }
}

fn null() -> MPI_Request {
    // SAFETY: a constant of the library.
    unsafe { ffi::RSMPI_REQUEST_NULL }
}

fn length_of(rank: usize, message: &[u8]) -> Result<c_int, RanksError> {
    c_int::try_from(message.len()).map_err(|e| too_long(rank, message.len(), e))
}

fn too_long(rank: usize, bytes: usize, _: std::num::TryFromIntError) -> RanksError {
    RanksError::Transport { rank, message: format!("a message of {bytes} bytes is longer than MPI can count") }
}

/// Requests under way.
struct Pending {
    link: Arc<Link>,
    requests: Vec<MPI_Request>,
    /// Of the first requests, which receive: from whom, and how many bytes.
    expected: Vec<(usize, usize)>,
    patience: Duration,
}

// SAFETY: requests are names for something in the library, as communicators are.
unsafe impl Send for Pending {}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("requests", &self.requests.len()).finish_non_exhaustive()
    }
}

impl Pending {
    fn is_done(&mut self) -> Result<bool, RanksError> {
        if self.requests.is_empty() {
            return Ok(true);
        }
        let mut done = 0;
        let mut statuses: Vec<MaybeUninit<MPI_Status>> = vec![MaybeUninit::zeroed(); self.requests.len()];
        let code = {
            let _calls = self.link.calls();
            // SAFETY: the requests are of this exchange, and not done before; there is a status of each.
            unsafe {
                let (count, requests) = (self.requests.len() as c_int, self.requests.as_mut_ptr());
                ffi::MPI_Testall(count, requests, &mut done, statuses.as_mut_ptr().cast())
            }
        };
        self.link.checked(code)?;
        if done == 0 {
            return Ok(false);
        }
        self.requests.clear();
        for (status, &(from, expected)) in statuses.iter().zip(&self.expected) {
            let mut got = 0;
            // SAFETY: all requests are done, so the library has written the statuses of those that receive.
            let code = unsafe { ffi::MPI_Get_count(status.as_ptr(), ffi::RSMPI_UINT8_T, &mut got) };
            self.link.checked(code)?;
            if got as usize != expected {
                return Err(RanksError::Length { rank: self.link.rank, from, expected, got: got as usize });
            }
        }
        Ok(true)
    }

    fn wait(&mut self) -> Result<(), RanksError> {
        // Messages between processes of one machine come within microseconds: then sleeping takes longer than they do.
        const AWAKE: Duration = Duration::from_millis(2);
        let start = Instant::now();
        while !self.is_done()? {
            let waited = start.elapsed();
            if waited > self.patience {
                return Err(RanksError::Timeout { rank: self.link.rank, seconds: self.patience.as_secs() });
            }
            if waited < AWAKE { std::thread::yield_now() } else { std::thread::sleep(Duration::from_micros(50)) }
        }
        Ok(())
    }
}

/// Messages under way. The library reads and writes the buffers until all requests are done: if it goes before, they stay.
#[derive(Debug)]
struct MpiExchange {
    pending: Pending,
    sends: Vec<Vec<u8>>,
    receives: Vec<Vec<u8>>,
}

impl Exchange for MpiExchange {
    fn is_done(&mut self) -> Result<bool, RanksError> {
        self.pending.is_done()
    }

    fn wait(mut self: Box<Self>) -> Result<Vec<Vec<u8>>, RanksError> {
        self.pending.wait()?;
        Ok(std::mem::take(&mut self.receives))
    }
}

impl Drop for MpiExchange {
    fn drop(&mut self) {
        if !self.pending.requests.is_empty() {
            std::mem::forget((std::mem::take(&mut self.sends), std::mem::take(&mut self.receives)));
        }
    }
}

/// A sum under way; its buffers stay as those of [`MpiExchange`] do.
#[derive(Debug)]
struct MpiSum {
    pending: Pending,
    numbers: Vec<f32>,
    sum: Vec<f32>,
}

impl Exchange for MpiSum {
    fn is_done(&mut self) -> Result<bool, RanksError> {
        self.pending.is_done()
    }

    fn wait(mut self: Box<Self>) -> Result<Vec<Vec<u8>>, RanksError> {
        self.pending.wait()?;
        Ok(vec![bytemuck::cast_slice(&self.sum).to_vec()])
    }
}

impl Drop for MpiSum {
    fn drop(&mut self) {
        if !self.pending.requests.is_empty() {
            std::mem::forget((std::mem::take(&mut self.numbers), std::mem::take(&mut self.sum)));
        }
    }
}
