//! Counter-based random numbers: a value is a pure function of a key and an index, so it does not depend on the
//! order of computation, the number of threads or the device.
//!
//! The generator is Threefry-2x32 with 20 rounds (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011): additions, rotations and exclusive-ors of 32-bit words only, which a GPU shader can do too.

const ROTATIONS: [u32; 8] = [13, 15, 26, 6, 17, 29, 16, 24];
const PARITY: u32 = 0x1BD1_1BDA;

/// The Threefry-2x32-20 block function: `key` and `counter` to two words.
#[inline(always)]
pub fn threefry(key: [u32; 2], counter: [u32; 2]) -> [u32; 2] {
    let schedule = [key[0], key[1], PARITY ^ key[0] ^ key[1]];
    let mut a = counter[0].wrapping_add(schedule[0]);
    let mut b = counter[1].wrapping_add(schedule[1]);
    for round in 0..20 {
        a = a.wrapping_add(b);
        b = b.rotate_left(ROTATIONS[round % 8]) ^ a;
        if round % 4 == 3 {
            let injection = round / 4 + 1;
            a = a.wrapping_add(schedule[injection % 3]);
            b = b.wrapping_add(schedule[(injection + 1) % 3]).wrapping_add(injection as u32);
        }
    }
    [a, b]
}

/// A stream of random numbers, addressed by index.
///
/// ```
/// use sparse_kernels::random::Key;
/// let key = Key::new(7).with_name("layer1").with(100);
/// assert_eq!(key.bits(3), Key::new(7).with_name("layer1").with(100).bits(3));
/// assert_ne!(key.bits(3), key.bits(4));
/// assert!((0.0..1.0).contains(&key.uniform(3)));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key([u32; 2]);

impl Key {
    /// The root key of a seed.
    pub fn new(seed: u64) -> Self {
        Key([seed as u32, (seed >> 32) as u32])
    }

    /// The key for one value (a step, an epoch) below this one.
    pub fn with(self, value: u64) -> Self {
        Key(threefry(self.0, [value as u32, (value >> 32) as u32]))
    }

    /// The key for one name (a layer, a purpose) below this one. The name enters through FNV-1a, which, unlike the
    /// standard library's hasher, is the same in every process and version.
    pub fn with_name(self, name: &str) -> Self {
        let hash =
            name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        self.with(hash)
    }

    /// The key's two words, for kernels that carry it as plain data.
    pub fn words(self) -> [u32; 2] {
        self.0
    }

    /// 64 random bits.
    #[inline(always)]
    pub fn bits(self, index: u64) -> u64 {
        let [a, b] = threefry(self.0, [index as u32, (index >> 32) as u32]);
        u64::from(a) | u64::from(b) << 32
    }

    /// A number in `[0, 1)` with 24 random bits.
    #[inline(always)]
    pub fn uniform(self, index: u64) -> f32 {
        (self.bits(index) as u32 >> 8) as f32 * (1.0 / (1 << 24) as f32)
    }

    /// A whole number in `0..bound` (multiply-shift; the bias is below `bound / 2^64`).
    ///
    /// # Panics
    /// If `bound` is zero.
    #[inline(always)]
    pub fn below(self, index: u64, bound: u64) -> u64 {
        assert!(bound > 0, "no whole number is below 0");
        ((u128::from(self.bits(index)) * u128::from(bound)) >> 64) as u64
    }

    /// A standard normal number (Box–Muller on one block).
    #[inline]
    pub fn normal(self, index: u64) -> f32 {
        let bits = self.bits(index);
        // (0, 1]: the logarithm must not see zero.
        let radius = (-2.0 * (((bits as u32 >> 8) + 1) as f64 / f64::from(1 << 24)).ln()).sqrt();
        let angle = std::f64::consts::TAU * ((bits >> 40) as f64 / f64::from(1 << 24));
        (radius * angle.cos()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the reference implementation (Random123, `kat_vectors`, threefry2x32 20 rounds).
    #[test]
    fn known_answers() {
        assert_eq!(threefry([0, 0], [0, 0]), [0x6b20_0159, 0x99ba_4efe]);
        assert_eq!(threefry([u32::MAX; 2], [u32::MAX; 2]), [0x1cb9_96fc, 0xbb00_2be7]);
        assert_eq!(threefry([0x1319_8a2e, 0x0370_7344], [0x243f_6a88, 0x85a3_08d3]), [0xc492_3a9c, 0x483d_f7a0]);
    }

    #[test]
    fn moments() {
        let key = Key::new(1).with_name("moments");
        let n = 100_000;
        let uniform_mean = (0..n).map(|i| f64::from(key.uniform(i))).sum::<f64>() / n as f64;
        let normal_mean = (0..n).map(|i| f64::from(key.normal(i))).sum::<f64>() / n as f64;
        let normal_var = (0..n).map(|i| f64::from(key.normal(i)).powi(2)).sum::<f64>() / n as f64;
        // Five standard errors.
        assert!((uniform_mean - 0.5).abs() < 5.0 * 0.2887 / (n as f64).sqrt(), "{uniform_mean}");
        assert!(normal_mean.abs() < 5.0 / (n as f64).sqrt(), "{normal_mean}");
        assert!((normal_var - 1.0).abs() < 5.0 * 2f64.sqrt() / (n as f64).sqrt(), "{normal_var}");
    }

    #[test]
    fn below_covers_its_range() {
        let key = Key::new(2);
        let mut seen = [0; 5];
        (0..1000).for_each(|i| seen[key.below(i, 5) as usize] += 1);
        assert!(seen.iter().all(|&n| n > 130), "{seen:?}");
    }
}
