//! What a pass over shards has found beside gradients, of all ranks.

use autograd::{BatchNormLayer, LossStats, ShardMoments};

use ranks::{RankReduce, RanksError};

/// Losses of shards, in their order, and moments.
pub(super) struct Found {
    /// The batch normalisations.
    pub norms: Vec<BatchNormLayer>,
    pub losses: Vec<LossStats>,
    pub moments: Vec<ShardMoments>,
    /// Whether the run has been asked to stop.
    pub asked_to_stop: bool,
}

/// Bytes of a loss: sum, right answers, lanes; and of whether to stop.
const LOSS_BYTES: usize = 4 + 8 + 8 + 4;

impl Found {
    /// The same of the shards of all ranks, from those of this one.
    pub fn of_all_ranks(self, ranks: &mut RankReduce) -> Result<Self, RanksError> {
        let Self { norms, losses, moments, asked_to_stop } = self;
        let first = ranks.own().start;
        let of = |norm: &BatchNormLayer, shard: usize| {
            moments.iter().find(|found| found.layer.running == norm.running && found.shard == shard)
        };
        let lengths: Vec<_> = norms.iter().map(|norm| of(norm, first).map_or(0, |found| found.moments.len())).collect();
        let mut message = Vec::new();
        for (i, loss) in losses.iter().enumerate() {
            message.extend(loss.sum.to_le_bytes());
            message.extend([loss.correct, loss.lanes].into_iter().flat_map(|count| (count as u64).to_le_bytes()));
            message.extend(u32::from(asked_to_stop).to_le_bytes());
            let found = norms.iter().filter_map(|norm| of(norm, first + i));
            message.extend(found.flat_map(|found| &found.moments).flat_map(|moment| moment.to_le_bytes()));
        }
        let per_shard = LOSS_BYTES + 4 * lengths.iter().sum::<usize>();
        let all = ranks.gather_shards(&message, per_shard)?;
        let (mut losses, mut moments, mut asked_to_stop) = (vec![], vec![], false);
        for (shard, bytes) in all.chunks_exact(per_shard).enumerate() {
            let float = |at: usize| f32::from_le_bytes(bytes[at..at + 4].try_into().expect("4 bytes"));
            let count = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
            losses.push(LossStats { sum: float(0), correct: count(4), lanes: count(12) });
            asked_to_stop |= float(20).to_bits() != 0;
            let mut at = LOSS_BYTES;
            for (&layer, &length) in norms.iter().zip(&lengths) {
                let moments_of = (0..length).map(|i| float(at + 4 * i)).collect();
                moments.push(ShardMoments { layer, shard, moments: moments_of });
                at += 4 * length;
            }
        }
        Ok(Self { norms, losses, moments, asked_to_stop })
    }
}
