// Causal attention of one head of one sequence, in strips, [strip][feature][lane], with an online softmax, and its gradients
// from probabilities that are computed once more (FlashAttention-2, Dao 2023):
//
//   S[i, j] = scale · Σ_f q[f, i] · k[f, j],  P = softmax of S over j <= i,  o[f, i] = Σ_j P[i, j] · v[f, j],  lse = ln Σ_j exp S
//   D[i] = Σ_f do · o,  dS = P · (Σ_f do[f, i] · v[f, j] − D[i])
//   dq[f, i] = scale · Σ_j dS · k[f, j],  dk[f, j] = scale · Σ_i dS · q[f, i],  dv[f, j] = Σ_i P · do[f, i]
//
// A workgroup has SIDE tokens of a head of a sequence, as queries or, for dk and dv, as keys, and goes over tiles of SIDE others.
// An invocation computes one score of a tile; then it has one of the tokens and every SIDE-th feature of it, and adds the tile to
// what it has of those in the output. No invocation touches another's, so that sums have one order.
//
// Rotary positions are turned before (`turn`) and gradients turned back behind (`turn_back`): an invocation has a pair of
// features, d and d + F/2, of one lane.

const SIDE = 16u;
const GROUP = 256u;
const LOWEST = -3.0e38;

struct Parameters {
    // Of q, k, v and o.
    features: u32,
    strip: u32,
    heads: u32,
    length: u32,
    lanes: u32,
    // Workgroups that there is work for.
    groups: u32,
    scale: f32,
}

@group(1) @binding(0) var<uniform> p: Parameters;

// Where a feature of a lane stands in strips of so many features.
fn place(features: u32, feature: u32, lane: u32) -> u32 {
    return lane / p.strip * p.strip * features + feature * p.strip + lane % p.strip;
}

// What a workgroup works on.
struct Block {
    head: u32,
    // The first lane of the sequence, and the first token of the block.
    lane: u32,
    token: u32,
    is_there: bool,
}

fn block(id: u32) -> Block {
    let blocks = (p.length + SIDE - 1u) / SIDE;
    let row = id / blocks;
    return Block(row % p.heads, row / p.heads * p.length, id % blocks * SIDE, id < p.groups);
}

@group(0) @binding(0) var<storage, read> q: array<f32>;
@group(0) @binding(1) var<storage, read> k: array<f32>;
@group(0) @binding(2) var<storage, read> v: array<f32>;
@group(0) @binding(3) var<storage, read_write> o: array<f32>;
@group(0) @binding(4) var<storage, read_write> lse: array<f32>;

// [other token][token].
var<workgroup> scores: array<f32, SIDE * SIDE>;
var<workgroup> slopes: array<f32, SIDE * SIDE>;
var<workgroup> tops: array<f32, SIDE>;
var<workgroup> totals: array<f32, SIDE>;
var<workgroup> factors: array<f32, SIDE>;

@compute @workgroup_size(SIDE, SIDE)
fn attention(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let my = block(group.x + group.y * groups.x);
    let head_size = p.features / p.heads;
    let first = my.head * head_size;
    let query = my.token + local.x;
    let is_live = my.is_there && query < p.length;
    let lane = my.lane + query;
    let end = select(0u, min(my.token + SIDE, p.length), my.is_there);
    if (local.y == 0u) {
        tops[local.x] = LOWEST;
        totals[local.x] = 0.0;
    }
    for (var tile = 0u; tile < end; tile += SIDE) {
        let key = tile + local.y;
        var score = LOWEST;
        if (is_live && key <= query) {
            score = 0.0;
            for (var f = 0u; f < head_size; f++) {
                score += q[place(p.features, first + f, lane)] * k[place(p.features, first + f, my.lane + key)];
            }
            score *= p.scale;
        }
        scores[local.y * SIDE + local.x] = score;
        workgroupBarrier();
        if (local.y == 0u) {
            var top = tops[local.x];
            for (var j = 0u; j < SIDE; j++) {
                top = max(top, scores[j * SIDE + local.x]);
            }
            let factor = exp(tops[local.x] - top);
            var total = totals[local.x] * factor;
            for (var j = 0u; j < SIDE; j++) {
                // A score that is not to be has no part, even where all are so.
                let is_seen = tile + j <= query;
                let part = select(0.0, exp(scores[j * SIDE + local.x] - top), is_seen);
                scores[j * SIDE + local.x] = part;
                total += part;
            }
            tops[local.x] = top;
            totals[local.x] = total;
            factors[local.x] = factor;
        }
        workgroupBarrier();
        if (is_live) {
            let count = min(SIDE, query + 1u - min(tile, query + 1u));
            for (var f = local.y; f < head_size; f += SIDE) {
                let at = place(p.features, first + f, lane);
                var sum = 0.0;
                if (tile > 0u) {
                    sum = o[at] * factors[local.x];
                }
                for (var j = 0u; j < count; j++) {
                    sum += scores[j * SIDE + local.x] * v[place(p.features, first + f, my.lane + tile + j)];
                }
                o[at] = sum;
            }
        }
        workgroupBarrier();
    }
    if (is_live) {
        for (var f = local.y; f < head_size; f += SIDE) {
            let at = place(p.features, first + f, lane);
            o[at] = o[at] / totals[local.x];
        }
        if (local.y == 0u) {
            lse[place(p.heads, my.head, lane)] = tops[local.x] + log(totals[local.x]);
        }
    }
}

@group(0) @binding(0) var<storage, read> output: array<f32>;
@group(0) @binding(1) var<storage, read> output_grad: array<f32>;
@group(0) @binding(2) var<storage, read_write> sums: array<f32>;

// D, one for each head and lane.
@compute @workgroup_size(GROUP)
fn attention_products(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let i = (group.x + group.y * groups.x) * GROUP + local;
    let head = i / p.lanes;
    let lane = i % p.lanes;
    if (head >= p.heads) {
        return;
    }
    let head_size = p.features / p.heads;
    var sum = 0.0;
    for (var f = 0u; f < head_size; f++) {
        let at = place(p.features, head * head_size + f, lane);
        sum += output[at] * output_grad[at];
    }
    sums[place(p.heads, head, lane)] = sum;
}

@group(0) @binding(3) var<storage, read> grad: array<f32>;
@group(0) @binding(4) var<storage, read> found: array<f32>;
@group(0) @binding(5) var<storage, read> products: array<f32>;
@group(0) @binding(6) var<storage, read_write> first_grad: array<f32>;
@group(0) @binding(7) var<storage, read_write> second_grad: array<f32>;

// P and dS of a query and a key of a head.
fn score(head: u32, query_lane: u32, key_lane: u32) -> vec2<f32> {
    let head_size = p.features / p.heads;
    var sum = 0.0;
    var slope = 0.0;
    for (var f = 0u; f < head_size; f++) {
        let query = place(p.features, head * head_size + f, query_lane);
        let key = place(p.features, head * head_size + f, key_lane);
        sum += q[query] * k[key];
        slope += grad[query] * v[key];
    }
    let at = place(p.heads, head, query_lane);
    let part = exp(sum * p.scale - found[at]);
    return vec2<f32>(part, part * (slope - products[at]));
}

@compute @workgroup_size(SIDE, SIDE)
fn attention_grad_queries(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let my = block(group.x + group.y * groups.x);
    let head_size = p.features / p.heads;
    let first = my.head * head_size;
    let query = my.token + local.x;
    let is_live = my.is_there && query < p.length;
    let end = select(0u, min(my.token + SIDE, p.length), my.is_there);
    for (var tile = 0u; tile < end; tile += SIDE) {
        let key = tile + local.y;
        var slope = 0.0;
        if (is_live && key <= query) {
            slope = score(my.head, my.lane + query, my.lane + key).y;
        }
        slopes[local.y * SIDE + local.x] = slope;
        workgroupBarrier();
        if (is_live) {
            let count = min(SIDE, query + 1u - min(tile, query + 1u));
            for (var f = local.y; f < head_size; f += SIDE) {
                let at = place(p.features, first + f, my.lane + query);
                var sum = 0.0;
                for (var j = 0u; j < count; j++) {
                    sum += slopes[j * SIDE + local.x] * k[place(p.features, first + f, my.lane + tile + j)];
                }
                sum *= p.scale;
                if (tile > 0u) {
                    sum += first_grad[at];
                }
                first_grad[at] = sum;
            }
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(SIDE, SIDE)
fn attention_grad_keys(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_id) local: vec3<u32>,
) {
    let my = block(group.x + group.y * groups.x);
    let head_size = p.features / p.heads;
    let first = my.head * head_size;
    let key = my.token + local.x;
    let is_live = my.is_there && key < p.length;
    let end = select(0u, p.length, my.is_there);
    for (var tile = my.token; tile < end; tile += SIDE) {
        let query = tile + local.y;
        var both = vec2<f32>(0.0);
        if (is_live && query < p.length && key <= query) {
            both = score(my.head, my.lane + query, my.lane + key);
        }
        scores[local.y * SIDE + local.x] = both.x;
        slopes[local.y * SIDE + local.x] = both.y;
        workgroupBarrier();
        if (is_live) {
            let count = min(SIDE, p.length - tile);
            for (var f = local.y; f < head_size; f += SIDE) {
                let at = place(p.features, first + f, my.lane + key);
                var of_key = 0.0;
                var of_value = 0.0;
                // Queries before the key see nothing of it.
                for (var i = select(0u, local.x, tile == my.token); i < count; i++) {
                    let source = place(p.features, first + f, my.lane + tile + i);
                    of_key += slopes[i * SIDE + local.x] * q[source];
                    of_value += scores[i * SIDE + local.x] * grad[source];
                }
                of_key *= p.scale;
                if (tile > my.token) {
                    of_key += first_grad[at];
                    of_value += second_grad[at];
                }
                first_grad[at] = of_key;
                second_grad[at] = of_value;
            }
        }
        workgroupBarrier();
    }
}

// Cosine and sine, [pair][token].
@group(0) @binding(0) var<storage, read> angles: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> turned: array<f32>;
@group(0) @binding(2) var<storage, read> unturned: array<f32>;

// Places of both features of an invocation's pair, and its cosine and sine.
struct Pair {
    first: u32,
    second: u32,
    angle: vec2<f32>,
    is_there: bool,
}

fn pair(i: u32) -> Pair {
    let pairs = p.features / p.heads / 2u;
    let lane = i % p.lanes;
    let number = i / p.lanes % pairs;
    let first = i / p.lanes / pairs * 2u * pairs + number;
    let is_there = i / p.lanes < pairs * p.heads;
    let angle = angles[select(0u, number * p.length + lane % p.length, is_there)];
    return Pair(place(p.features, first, lane), place(p.features, first + pairs, lane), angle, is_there);
}

@compute @workgroup_size(GROUP)
fn turn(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let my = pair((group.x + group.y * groups.x) * GROUP + local);
    if (my.is_there) {
        let x = unturned[my.first];
        let y = unturned[my.second];
        turned[my.first] = x * my.angle.x - y * my.angle.y;
        turned[my.second] = x * my.angle.y + y * my.angle.x;
    }
}

@compute @workgroup_size(GROUP)
fn turn_back(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let my = pair((group.x + group.y * groups.x) * GROUP + local);
    if (my.is_there) {
        let x = turned[my.first];
        let y = turned[my.second];
        turned[my.first] = x * my.angle.x + y * my.angle.y;
        turned[my.second] = y * my.angle.x - x * my.angle.y;
    }
}
