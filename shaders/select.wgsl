// The best `wanted` of a list and a band of scores, in order of position, by radix selection.
//
// An element has a key, 0 if it is no candidate, else one more than the bits of its score, which order as scores do that are
// not negative; and a position of 64 bits. The best come first in the order of four words:
//
//     (not key, hash of the position, position's high word, position's low word)
//
// The last of the best, the cut, is found from the top down in digits of 11, 11 and 10 bits a word. Each digit is a
// `histogram` of the elements that agree with the digits found before, and a `find` of the one workgroup that sums it up.
// As soon as all that agree are wanted, the cut is known and what follows returns at once: scores that differ need the
// first three digits at most, hashes are computed only of elements that score as the cut does. Histograms are of whole
// numbers, so the order of their additions does not matter.
//
// Then a workgroup counts what it keeps of its chunk (`count`), one workgroup sums these numbers up (`offsets`), and
// `collect` writes to places that depend on nothing else: the new list is in order of position, as the old one and the band
// behind it were.

struct Parameters {
    // Elements of this launch.
    length: u32,
    // Whether they are a part of the list, else of the band.
    is_list: u32,
    // Position of the first, in a band: low and high word.
    base: vec2<u32>,
    // The random key that orders ties.
    ties: vec2<u32>,
    // Word of the order, and where its digit begins: 21, 10, 0.
    word: u32,
    shift: u32,
    // Elements that are wanted.
    wanted: u32,
    // Whether those are all that there are: no cut is known.
    is_all: u32,
    // Chunk of the first element; for `offsets` the number of chunks.
    first_chunk: u32,
    // Window of the new list.
    first_slot: u32,
    slots: u32,
}

struct State {
    // The cut: digits not yet found are 0.
    cut: vec4<u32>,
    // How many of the elements that agree with it are wanted.
    wanted: u32,
    is_done: u32,
}

// Invocations of a workgroup.
const GROUP: u32 = 256u;
// Elements of a workgroup of `histogram`, and of those that count and collect.
const COUNTED: u32 = 8192u;
const CHUNK: u32 = 4096u;
const BINS: u32 = 2048u;
const ALL: u32 = 0xffffffffu;

@group(1) @binding(0) var<uniform> p: Parameters;

// ---- Keys

struct KeyParameters {
    quads: u32,
}

@group(0) @binding(0) var<storage, read> gradient: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> written_keys: array<vec4<u32>>;
@group(1) @binding(0) var<uniform> key_p: KeyParameters;

// keys[i] = one more than the bits of abs(gradient[i]); a NaN counts as 0. Four elements an invocation.
@compute @workgroup_size(256)
fn keys_of(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + local;
    if (i < key_p.quads) {
        let magnitude = gradient[i] & vec4<u32>(0x7fffffffu);
        written_keys[i] = select(magnitude, vec4<u32>(0u), magnitude > vec4<u32>(0x7f800000u)) + 1u;
    }
}

struct ExcludeParameters {
    // Entries of this launch, and the first in the window.
    length: u32,
    first: u32,
    // Window of the keys.
    first_key: u32,
    keys: u32,
}

@group(0) @binding(0) var<storage, read> excluded: array<u32>;
@group(0) @binding(1) var<storage, read_write> excluded_keys: array<u32>;
@group(1) @binding(0) var<uniform> exclude_p: ExcludeParameters;

// keys[excluded[i]] = 0.
@compute @workgroup_size(256)
fn exclude(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + local;
    if (i < exclude_p.length) {
        let at = excluded[exclude_p.first + i];
        if (at >= exclude_p.first_key && at - exclude_p.first_key < exclude_p.keys) {
            excluded_keys[at - exclude_p.first_key] = 0u;
        }
    }
}

// ---- The order

@group(0) @binding(0) var<storage, read> keys: array<vec4<u32>>;
// Positions in the list; in a band anything.
@group(0) @binding(1) var<storage, read> lows: array<u32>;
@group(0) @binding(2) var<storage, read> highs: array<u32>;
@group(0) @binding(3) var<storage, read> state: State;

fn position(i: u32) -> vec2<u32> {
    if (p.is_list != 0u) {
        return vec2<u32>(lows[i], highs[i]);
    }
    let low = p.base.x + i;
    return vec2<u32>(low, p.base.y + select(0u, 1u, low < i));
}

// Four rounds of Threefry-2x32.
fn rounds(words: vec2<u32>, rotations: vec4<u32>) -> vec2<u32> {
    var a = words.x;
    var b = words.y;
    a += b;
    b = ((b << rotations.x) | (b >> (32u - rotations.x))) ^ a;
    a += b;
    b = ((b << rotations.y) | (b >> (32u - rotations.y))) ^ a;
    a += b;
    b = ((b << rotations.z) | (b >> (32u - rotations.z))) ^ a;
    a += b;
    b = ((b << rotations.w) | (b >> (32u - rotations.w))) ^ a;
    return vec2<u32>(a, b);
}

// The low word of the random bits of a position.
fn hash(at: vec2<u32>) -> u32 {
    let even = vec4<u32>(13u, 15u, 26u, 6u);
    let odd = vec4<u32>(17u, 29u, 16u, 24u);
    let k0 = p.ties.x;
    let k1 = p.ties.y;
    let k2 = 0x1bd11bdau ^ k0 ^ k1;
    var words = at + vec2<u32>(k0, k1);
    words = rounds(words, even) + vec2<u32>(k1, k2 + 1u);
    words = rounds(words, odd) + vec2<u32>(k2, k0 + 2u);
    words = rounds(words, even) + vec2<u32>(k0, k1 + 3u);
    words = rounds(words, odd) + vec2<u32>(k1, k2 + 4u);
    words = rounds(words, even) + vec2<u32>(k2, k0 + 5u);
    return words.x;
}

// ---- The cut

@group(0) @binding(4) var<storage, read_write> histogram_bins: array<atomic<u32>>;

var<workgroup> bins: array<atomic<u32>, BINS>;

// Adds the digits of the elements that agree with the cut as far as it is known.
@compute @workgroup_size(256)
fn histogram(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let is_first = p.word == 0u && p.shift == 21u;
    // Before the first digit the state is that of another selection.
    if (!is_first && state.is_done != 0u) {
        return;
    }
    for (var i = local; i < BINS; i += GROUP) {
        atomicStore(&bins[i], 0u);
    }
    workgroupBarrier();
    let cut = state.cut;
    let above = p.shift + select(11u, 10u, p.shift == 0u);
    let mask = select(0x7ffu, 0x3ffu, p.shift == 0u);
    let chunk = (group.x + group.y * groups.x) * COUNTED;
    // Equal digits in a row are added at once: dead inputs have millions of zeros.
    var last = 0u;
    var run = 0u;
    for (var quad = local * 4u; quad < COUNTED; quad += GROUP * 4u) {
        let first = chunk + quad;
        if (first >= p.length) {
            break;
        }
        let four = keys[first / 4u];
        for (var k = 0u; k < 4u; k++) {
            let i = first + k;
            let key = four[k];
            if (i >= p.length || key == 0u) {
                continue;
            }
            var word = ~key;
            var agreed = 0u;
            if (p.word > 0u) {
                if (word != cut.x) {
                    continue;
                }
                let at = position(i);
                let random = hash(at);
                if (p.word > 1u && random != cut.y) {
                    continue;
                }
                if (p.word > 2u && at.y != cut.z) {
                    continue;
                }
                agreed = cut[p.word];
                word = select(select(at.x, at.y, p.word == 2u), random, p.word == 1u);
            } else {
                agreed = cut.x;
            }
            if (p.shift != 21u && (word >> above) != (agreed >> above)) {
                continue;
            }
            let digit = (word >> p.shift) & mask;
            if (digit != last) {
                if (run > 0u) {
                    atomicAdd(&bins[last], run);
                }
                last = digit;
                run = 0u;
            }
            run += 1u;
        }
    }
    if (run > 0u) {
        atomicAdd(&bins[last], run);
    }
    workgroupBarrier();
    for (var i = local; i < BINS; i += GROUP) {
        let sum = atomicLoad(&bins[i]);
        if (sum > 0u) {
            atomicAdd(&histogram_bins[i], sum);
        }
    }
}

var<workgroup> partial: array<u32, GROUP>;

// Sum of the values of all invocations before this one.
fn sum_before(local: u32, value: u32) -> u32 {
    partial[local] = value;
    workgroupBarrier();
    for (var step = 1u; step < GROUP; step *= 2u) {
        var other = 0u;
        if (local >= step) {
            other = partial[local - step];
        }
        workgroupBarrier();
        partial[local] += other;
        workgroupBarrier();
    }
    return partial[local] - value;
}

@group(0) @binding(0) var<storage, read_write> found_bins: array<u32>;
@group(0) @binding(1) var<storage, read_write> found: State;

// Finds the digit that the last wanted element has, and clears the histogram. One workgroup; where the cut is known already
// the histogram is empty, and nothing is found.
@compute @workgroup_size(256)
fn find(@builtin(local_invocation_index) local: u32) {
    let each = BINS / GROUP;
    let is_first = p.word == 0u && p.shift == 21u;
    let wanted = select(found.wanted, p.wanted, is_first);
    var cut = select(found.cut, vec4<u32>(0u), vec4<bool>(is_first));
    var sum = 0u;
    for (var i = 0u; i < each; i++) {
        sum += found_bins[local * each + i];
    }
    // All have read the state before one writes it: the sum has barriers.
    let before = sum_before(local, sum);
    if (before < wanted && wanted <= before + sum) {
        var rest = wanted - before;
        var digit = local * each;
        while (rest > found_bins[digit]) {
            rest -= found_bins[digit];
            digit += 1u;
        }
        let is_done = rest == found_bins[digit];
        cut[p.word] |= digit << p.shift;
        if (is_done) {
            cut[p.word] |= (1u << p.shift) - 1u;
            for (var later = p.word + 1u; later < 4u; later++) {
                cut[later] = ALL;
            }
        }
        found.cut = cut;
        found.wanted = rest;
        found.is_done = u32(is_done);
    }
    for (var i = 0u; i < each; i++) {
        found_bins[local * each + i] = 0u;
    }
}

// ---- What is kept

// Whether the element stands at the cut or before it.
fn is_kept(i: u32, key: u32) -> bool {
    if (i >= p.length || key == 0u) {
        return false;
    }
    if (p.is_all != 0u) {
        return true;
    }
    let cut = state.cut;
    if (~key != cut.x) {
        return ~key < cut.x;
    }
    if (all(cut.yzw == vec3<u32>(ALL))) {
        return true;
    }
    let at = position(i);
    let random = hash(at);
    if (random != cut.y) {
        return random < cut.y;
    }
    if (at.y != cut.z) {
        return at.y < cut.z;
    }
    return at.x <= cut.w;
}

// Elements of an invocation: a run, so that places follow positions.
const RUN: u32 = CHUNK / GROUP;

// Bits of those of the run from `first` on that are kept.
fn kept_of(first: u32) -> u32 {
    var kept = 0u;
    for (var quad = 0u; quad < RUN; quad += 4u) {
        if (first + quad >= p.length) {
            break;
        }
        let four = keys[(first + quad) / 4u];
        for (var k = 0u; k < 4u; k++) {
            kept |= u32(is_kept(first + quad + k, four[k])) << (quad + k);
        }
    }
    return kept;
}

@group(0) @binding(4) var<storage, read_write> counts: array<u32>;

// counts[chunk] = how many of the chunk are kept.
@compute @workgroup_size(256)
fn count(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let chunk = group.x + group.y * groups.x;
    let kept = countOneBits(kept_of(chunk * CHUNK + local * RUN));
    let before = sum_before(local, kept);
    // A folded grid has workgroups too many.
    if (local == GROUP - 1u && chunk * CHUNK < p.length) {
        counts[p.first_chunk + chunk] = before + kept;
    }
}

@group(0) @binding(0) var<storage, read_write> summed: array<u32>;

// counts[chunk] = how many of all chunks before it are kept. One workgroup.
@compute @workgroup_size(256)
fn offsets(@builtin(local_invocation_index) local: u32) {
    let chunks = p.first_chunk;
    let each = (chunks + GROUP - 1u) / GROUP;
    let first = min(local * each, chunks);
    let end = min(first + each, chunks);
    var sum = 0u;
    for (var i = first; i < end; i++) {
        sum += summed[i];
    }
    var before = sum_before(local, sum);
    for (var i = first; i < end; i++) {
        let own = summed[i];
        summed[i] = before;
        before += own;
    }
}

@group(0) @binding(4) var<storage, read> starts: array<u32>;
@group(0) @binding(5) var<storage, read_write> to_keys: array<u32>;
@group(0) @binding(6) var<storage, read_write> to_lows: array<u32>;
@group(0) @binding(7) var<storage, read_write> to_highs: array<u32>;

// Writes what is kept to the new list.
@compute @workgroup_size(256)
fn collect(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let chunk = group.x + group.y * groups.x;
    let first = chunk * CHUNK + local * RUN;
    let kept = kept_of(first);
    let before = sum_before(local, countOneBits(kept));
    if (kept == 0u) {
        return;
    }
    var slot = starts[p.first_chunk + chunk] + before;
    for (var k = 0u; k < RUN; k++) {
        if ((kept & (1u << k)) != 0u) {
            if (slot >= p.first_slot && slot - p.first_slot < p.slots) {
                let i = first + k;
                let at = position(i);
                to_keys[slot - p.first_slot] = keys[i / 4u][i % 4u];
                to_lows[slot - p.first_slot] = at.x;
                to_highs[slot - p.first_slot] = at.y;
            }
            slot += 1u;
        }
    }
}
