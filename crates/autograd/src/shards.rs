//! A batch in shards, each with a gradient of its own; the gradients are added up one fixed tree.
//!
//! ```text
//!         0..8                 a node is the sum of two; the left one has the largest power of two of
//!     0..4    4..8             shards that is smaller than the node's
//!   0..2 2..4 4..6 6..8
//!   0  1 2  3 4  5 6  7        leaves: one gradient for each shard
//! ```
//!
//! The tree depends on the number of shards alone. A worker that computes some shards next to each other holds the nodes that
//! are whole within them, and whoever adds up the rest does so along the same tree: so the sum has the same bits whatever
//! worker computed which shards. (An addition of two numbers does not depend on their order.)

use std::collections::HashMap;
use std::ops::Range;

use sparse_kernels::Backend;

use crate::{Arena, Error, ParameterId};

/// Which shards of a batch a tape computes, and of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shards {
    count: usize,
    first: usize,
    end: usize,
}

impl Shards {
    /// All shards of a batch.
    ///
    /// # Panics
    /// If there is none.
    pub fn all(count: usize) -> Self {
        Self::some(count, 0..count)
    }

    /// Some of `count` shards.
    ///
    /// # Panics
    /// If that is none, or there are not so many.
    pub fn some(count: usize, own: Range<usize>) -> Self {
        assert!(!own.is_empty() && own.end <= count, "shards {own:?} of {count}");
        Self { count, first: own.start, end: own.end }
    }

    /// Shards of the batch.
    pub fn count(self) -> usize {
        self.count
    }

    /// Those that are computed here.
    pub fn own(self) -> Range<usize> {
        self.first..self.end
    }
}

/// Nodes of the tree of sums that are known so far: none is a part of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree<T> {
    count: usize,
    nodes: Vec<(Range<usize>, T)>,
}

impl<T> Tree<T> {
    /// Of so many leaves, none of which is known.
    pub fn new(count: usize) -> Self {
        Self { count, nodes: vec![] }
    }

    /// Puts a node in its place, and adds up, by `add(left or right, the other)`, whatever that makes whole.
    ///
    /// # Errors
    /// Those of `add`.
    ///
    /// # Panics
    /// If these shards are no node of the tree.
    pub fn insert<E>(
        &mut self,
        shards: Range<usize>,
        value: T,
        mut add: impl FnMut(T, T) -> Result<T, E>,
    ) -> Result<(), E> {
        let (mut shards, mut value) = (shards, value);
        while let Some((sibling, parent)) = relatives(self.count, &shards) {
            let Some(i) = self.nodes.iter().position(|(node, _)| *node == sibling) else { break };
            value = add(value, self.nodes.swap_remove(i).1)?;
            shards = parent;
        }
        self.nodes.push((shards, value));
        Ok(())
    }

    /// The nodes, in order of their shards.
    pub fn into_nodes(mut self) -> Vec<(Range<usize>, T)> {
        self.nodes.sort_unstable_by_key(|(shards, _)| shards.start);
        self.nodes
    }

    /// The sum over all leaves; none while it is not known.
    pub fn into_root(mut self) -> Option<T> {
        match self.nodes.pop() {
            Some((shards, value)) if shards == (0..self.count) => Some(value),
            _ => None,
        }
    }

    /// The nodes that are known to whoever knows these leaves, in order.
    ///
    /// ```
    /// use autograd::Tree;
    /// assert_eq!(Tree::<()>::spans(8, 2..5), [2..4, 4..5]);
    /// assert_eq!(Tree::<()>::spans(5, 0..5), [0..5]);
    /// ```
    pub fn spans(count: usize, leaves: Range<usize>) -> Vec<Range<usize>> {
        let mut tree = Tree::new(count);
        for leaf in leaves {
            let added = tree.insert(leaf..leaf + 1, (), |(), ()| Ok::<_, std::convert::Infallible>(()));
            added.unwrap_or_else(|never| match never {});
        }
        tree.into_nodes().into_iter().map(|(span, ())| span).collect()
    }
}

/// The sibling and the parent of a node; none of the root.
fn relatives(count: usize, node: &Range<usize>) -> Option<(Range<usize>, Range<usize>)> {
    let mut parent = 0..count;
    while parent != *node {
        assert!(parent.len() > 1, "shards {node:?} are no node of a tree of {count}");
        let middle = parent.start + parent.len().next_power_of_two() / 2;
        let (left, right) = (parent.start..middle, middle..parent.end);
        match node {
            node if *node == left => return Some((right, parent)),
            node if *node == right => return Some((left, parent)),
            node if node.start < middle => parent = left,
            _ => parent = right,
        }
    }
    None
}

/// What a sum over shards is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SumOf {
    /// The gradient of a parameter. For a sparse one it is one number per stored entry, so that a reduction moves nnz numbers.
    Gradient(ParameterId),
    /// The gradient at all positions of a sparse parameter, where it was asked for.
    DenseGradient(ParameterId),
    /// The moments of a batch normalisation: their mean over shards, weighted by share. The parameter is the running moments.
    Moments(ParameterId),
}

impl SumOf {
    /// The parameter.
    pub fn parameter(self) -> ParameterId {
        match self {
            Self::Gradient(parameter) | Self::DenseGradient(parameter) | Self::Moments(parameter) => parameter,
        }
    }
}

/// Sums under way in a backward pass over shards.
pub(crate) struct ShardSums<B: Backend> {
    count: usize,
    /// The shard whose operation runs.
    pub shard: usize,
    /// Uses of a parameter in a shard that are to come.
    pub uses: HashMap<(ParameterId, usize), usize>,
    leaves: HashMap<(SumOf, usize), B::Buffer>,
    trees: HashMap<SumOf, Tree<B::Buffer>>,
}

impl<B: Backend> ShardSums<B> {
    pub fn new(count: usize, uses: HashMap<(ParameterId, usize), usize>) -> Self {
        Self { count, shard: 0, uses, leaves: HashMap::new(), trees: HashMap::new() }
    }

    /// The buffer for the shard's part of a sum, and whether to add to it.
    pub fn leaf(
        &mut self,
        backend: &B,
        arena: &mut Arena<B>,
        of: SumOf,
        len: usize,
    ) -> Result<(&mut B::Buffer, bool), Error> {
        use std::collections::hash_map::Entry;
        Ok(match self.leaves.entry((of, self.shard)) {
            Entry::Occupied(leaf) => (leaf.into_mut(), true),
            Entry::Vacant(leaf) => (leaf.insert(arena.take_buffer(backend, len)?), false),
        })
    }

    /// Notes that one use of a parameter in the shard is done; after the last one its leaves go into their trees.
    pub fn use_done(&mut self, backend: &B, arena: &mut Arena<B>, parameter: ParameterId) -> Result<(), Error> {
        let uses = self.uses.get_mut(&(parameter, self.shard)).expect("an operation notes its uses");
        *uses -= 1;
        if *uses > 0 {
            return Ok(());
        }
        for of in [SumOf::Gradient(parameter), SumOf::DenseGradient(parameter)] {
            if let Some(leaf) = self.leaves.remove(&(of, self.shard)) {
                let tree = self.trees.entry(of).or_insert_with(|| Tree::new(self.count));
                tree.insert(self.shard..self.shard + 1, leaf, |mut sum, other| {
                    backend.add(&other, &mut sum)?;
                    arena.give_buffer(backend, other);
                    Ok::<_, Error>(sum)
                })?;
            }
        }
        Ok(())
    }

    /// What is known of a sum.
    pub fn take(&mut self, of: SumOf) -> Option<Tree<B::Buffer>> {
        self.trees.remove(&of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first leaf of a sum, and how it was added up.
    type Sum = (usize, String);

    fn add(a: Sum, b: Sum) -> Result<Sum, ()> {
        let (left, right) = if a.0 < b.0 { (a, b) } else { (b, a) };
        Ok((left.0, format!("({} {})", left.1, right.1)))
    }

    fn sum(count: usize, order: impl Iterator<Item = usize>) -> Tree<Sum> {
        let mut tree = Tree::new(count);
        order.for_each(|leaf| tree.insert(leaf..leaf + 1, (leaf, leaf.to_string()), add).unwrap());
        tree
    }

    #[test]
    fn the_order_of_leaves_does_not_matter() {
        let trees = ["0", "(0 1)", "((0 1) 2)", "((0 1) (2 3))", "(((0 1) (2 3)) 4)", "(((0 1) (2 3)) (4 5))"];
        for (i, expected) in trees.into_iter().enumerate() {
            let count = i + 1;
            assert_eq!(sum(count, 0..count).into_root().unwrap().1, expected);
            assert_eq!(sum(count, (0..count).rev()).into_root().unwrap().1, expected);
        }
        assert_eq!(sum(8, [3, 1, 7, 0, 6, 2, 5, 4].into_iter()), sum(8, 0..8));
    }

    #[test]
    fn parts_meet_along_the_tree() {
        for count in 1..20 {
            for ranks in 1..=count {
                let mut tree = Tree::new(count);
                for rank in 0..ranks {
                    let own = rank * count / ranks..(rank + 1) * count / ranks;
                    let nodes = sum(count, own.clone().rev()).into_nodes();
                    let spans: Vec<_> = nodes.iter().map(|(span, _)| span.clone()).collect();
                    assert_eq!(spans, Tree::<()>::spans(count, own));
                    nodes.into_iter().for_each(|(span, part)| tree.insert(span, part, add).unwrap());
                }
                assert_eq!(tree, sum(count, 0..count), "{count} over {ranks}");
            }
        }
    }

    #[test]
    #[should_panic = "no node"]
    fn what_is_no_node_is_refused() {
        Tree::new(8).insert(1..3, 0, |a, b| Ok::<i32, ()>(a + b)).unwrap();
    }
}
