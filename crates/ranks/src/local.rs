//! Ranks that are threads of one process.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytemuck::cast_slice;

use super::{Exchange, RanksError, Transport, numbers_of};

/// How long one waits for another.
const PATIENCE: Duration = Duration::from_secs(60);

/// The number of an exchange, the rank that sends, the message.
type Message = (u64, usize, Vec<u8>);

/// One rank of several threads.
#[derive(Debug)]
pub struct LocalRank {
    rank: usize,
    to: Vec<Sender<Message>>,
    post: Arc<Mutex<Post>>,
}

/// What has come.
#[derive(Debug)]
struct Post {
    line: Receiver<Message>,
    messages: HashMap<(u64, usize), Vec<u8>>,
}

/// So many ranks.
pub fn local_ranks(count: usize) -> Vec<LocalRank> {
    let (to, lines): (Vec<_>, Vec<_>) = (0..count).map(|_| channel()).unzip();
    let rank = |(rank, line)| {
        let post = Arc::new(Mutex::new(Post { line, messages: HashMap::new() }));
        LocalRank { rank, to: to.clone(), post }
    };
    lines.into_iter().enumerate().map(rank).collect()
}

impl Transport for LocalRank {
    fn rank(&self) -> usize {
        self.rank
    }

    fn count(&self) -> usize {
        self.to.len()
    }

    fn exchange(
        &self,
        number: u64,
        messages: Vec<Vec<u8>>,
        lengths: Vec<usize>,
    ) -> Result<Box<dyn Exchange>, RanksError> {
        let gone = || RanksError::Transport { rank: self.rank, message: "a rank has ended".to_owned() };
        for (to, message) in self.to.iter().zip(messages) {
            to.send((number, self.rank, message)).map_err(|_| gone())?;
        }
        Ok(Box::new(LocalExchange { rank: self.rank, number, post: self.post.clone(), lengths }))
    }

    fn sum(&self, number: u64, numbers: Vec<f32>) -> Result<Box<dyn Exchange>, RanksError> {
        let (count, bytes) = (self.count(), cast_slice(&numbers).to_vec());
        let lengths = vec![bytes.len(); count];
        Ok(Box::new(LocalSum(self.exchange(number, vec![bytes; count], lengths)?)))
    }
}

/// The numbers of all ranks, which become their sum.
#[derive(Debug)]
struct LocalSum(Box<dyn Exchange>);

impl Exchange for LocalSum {
    fn is_done(&mut self) -> Result<bool, RanksError> {
        self.0.is_done()
    }

    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>, RanksError> {
        let all = self.0.wait()?.into_iter().map(|bytes| numbers_of(&bytes));
        let sum = all.reduce(|mut sum, other| {
            sum.iter_mut().zip(other).for_each(|(sum, other)| *sum += other);
            sum
        });
        Ok(vec![cast_slice(&sum.unwrap_or_default()).to_vec()])
    }
}

#[derive(Debug)]
struct LocalExchange {
    rank: usize,
    number: u64,
    post: Arc<Mutex<Post>>,
    lengths: Vec<usize>,
}

impl LocalExchange {
    fn post(&self) -> MutexGuard<'_, Post> {
        self.post.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next message, for so long; false if none has come.
    fn take(&self, patience: Duration) -> Result<bool, RanksError> {
        let mut post = self.post();
        match post.line.recv_timeout(patience) {
            Ok((number, from, message)) => {
                assert!(post.messages.insert((number, from), message).is_none(), "exchange {number} twice");
                Ok(true)
            }
            Err(RecvTimeoutError::Timeout) => Ok(false),
            Err(RecvTimeoutError::Disconnected) => {
                Err(RanksError::Transport { rank: self.rank, message: "all ranks have ended".to_owned() })
            }
        }
    }

    fn is_complete(&self) -> bool {
        let post = self.post();
        (0..self.lengths.len()).all(|from| post.messages.contains_key(&(self.number, from)))
    }
}

impl Exchange for LocalExchange {
    fn is_done(&mut self) -> Result<bool, RanksError> {
        while self.take(Duration::ZERO)? {}
        Ok(self.is_complete())
    }

    fn wait(self: Box<Self>) -> Result<Vec<Vec<u8>>, RanksError> {
        while !self.is_complete() {
            if !self.take(PATIENCE)? {
                return Err(RanksError::Timeout { rank: self.rank, seconds: PATIENCE.as_secs() });
            }
        }
        let mut post = self.post();
        let message = |(from, &expected): (usize, &usize)| {
            let message = post.messages.remove(&(self.number, from)).expect("it is complete");
            if message.len() == expected {
                return Ok(message);
            }
            Err(RanksError::Length { rank: self.rank, from, expected, got: message.len() })
        };
        self.lengths.iter().enumerate().map(message).collect()
    }
}
