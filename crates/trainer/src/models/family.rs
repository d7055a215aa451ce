//! What a family of convolutional networks says of itself, beside how they are built.

/// A family of convolutional networks, such as the wide residual ones. Their names are a prefix and numbers: `wrn-22-2`.
#[derive(Debug)]
pub struct Family {
    /// What all names begin with.
    pub prefix: &'static str,
    /// The names, for messages.
    pub names: &'static str,
    /// The rule for numbers behind the prefix, for messages; none where `names` says it.
    pub rule: Option<&'static str>,
    /// Whether these numbers make a name.
    pub has: fn(&[usize]) -> bool,
    /// Channels, side and classes of the pictures in the paper's tables.
    pub pictures: [usize; 3],
    /// Whether `--stem` chooses the first layers.
    pub has_stem: bool,
    /// How first weights are drawn.
    pub first_weights: FirstWeights,
}

/// How a network's first weights are drawn, as in the paper's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstWeights {
    /// Glorot's way.
    Glorot,
    /// By variance scaling with the number of inputs; the last layer begins small.
    Lecun,
    /// By He's factor; the last layer begins small.
    He,
    /// As PyTorch's linear layers: uniform in ±1/√fan_in; embeddings normal of deviation 1.
    Recurrent,
    /// As GPT-2's: normal of deviation 0.02, the last layers of branches 1/√(2 · layers) of that.
    Transformer {
        /// Blocks.
        layers: usize,
    },
}

impl PartialEq for Family {
    fn eq(&self, other: &Self) -> bool {
        self.prefix == other.prefix
    }
}

impl Eq for Family {}
