//! What a pass over shards has found beside gradients, of all ranks.

use autograd::LossStats;

use ranks::simulate::SHARD_BYTES;
use ranks::{RankReduce, RanksError};

/// Losses of shards, in their order.
pub(super) struct Found {
    pub losses: Vec<LossStats>,
    /// Whether the run has been asked to stop.
    pub asked_to_stop: bool,
}

impl Found {
    /// The same of the shards of all ranks, from those of this one; or the first rank and layer whose pattern differs from that of
    /// rank 0, from the sums of this one's.
    pub fn of_all_ranks(
        self,
        ranks: &mut RankReduce,
        patterns: &[u32],
    ) -> Result<Result<Self, [usize; 2]>, RanksError> {
        let own = bytes_of(patterns);
        let mut message = Vec::new();
        for loss in &self.losses {
            message.extend(loss.sum.to_le_bytes());
            message.extend([loss.correct, loss.lanes].into_iter().flat_map(|count| (count as u64).to_le_bytes()));
            message.extend(bytes_of(&[u32::from(self.asked_to_stop), crc32c::crc32c(&own)]));
        }
        let all = ranks.gather_shards(&message, SHARD_BYTES)?;
        let word = |bytes: &[u8], at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
        let count =
            |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
        let mut found = Self { losses: vec![], asked_to_stop: false };
        for bytes in all.chunks_exact(SHARD_BYTES) {
            let sum = f32::from_bits(word(bytes, 0));
            found.losses.push(LossStats { sum, correct: count(bytes, 4), lanes: count(bytes, 12) });
            found.asked_to_stop |= word(bytes, 20) != 0;
        }
        if all.chunks_exact(SHARD_BYTES).all(|bytes| word(bytes, 24) == word(&all, 24)) {
            return Ok(Ok(found));
        }
        let all = ranks.gather_any(&own)?;
        let differ =
            |of_rank: &Vec<u8>| of_rank.chunks(4).zip(all[0].chunks(4)).position(|(other, first)| other != first);
        let first = all.iter().enumerate().find_map(|(rank, of_rank)| Some([rank, differ(of_rank)?]));
        Ok(first.map_or(Ok(found), Err))
    }
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
