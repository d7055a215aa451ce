//! Dynamic sparse training: which weights of a network exist, and how that changes while it trains.
//!
//! RigL (Evci, Gale, Menick, Castro, Elsen: "Rigging the Lottery: Making All Tickets Winners", ICML 2020,
//! arXiv 1911.11134) and its relatives start from a random sparse network, and every ΔT steps drop the weights of
//! smallest magnitude and grow as many at other positions. The crate holds what such a training loop needs beside
//! arithmetic, in parts that do not know each other:
//!
//! | module | answers |
//! | --- | --- |
//! | [`schedule`] | when the topology changes, and which fraction of it |
//! | [`distribution`] | how dense each layer is |
//! | [`topology`] | which connections: drop, grow and rewire as pure functions of patterns |
//! | [`method`], [`mod@methods`] | the methods themselves, behind one interface that any training loop can drive |
//! | [`scheduled`] | the frame of methods that drop and grow by the schedule |
//! | [`flops`] | what inference and training cost |
//! | `sparse_loop` (feature `autograd`) | a method at work on the parameters of a tape |
//!
//! Everything works on [`sparse_kernels::CsrPattern`]: time and memory are O(nnz), no dense mask or score is ever
//! made. Random numbers are counter-based, so one seed gives one topology on any number of threads.
//!
//! # Support
//!
//! | method | drop | grow | weights stored |
//! | --- | --- | --- | --- |
//! | `dense` | – | – | dense |
//! | `static` | – | – | sparse |
//! | `snip` | once: smallest magnitude of gradient · weight | – | dense for one batch, then sparse |
//! | `set` | smallest magnitude | random | sparse |
//! | `snfs` | smallest magnitude | largest moving average of the dense gradient | sparse, and two dense arrays |
//! | `deepr` | weights that change their sign | random | sparse |
//! | `dsr` | magnitude below one threshold for all layers | random, more where more survive | sparse |
//! | `dnw` | all but the largest magnitudes of dense weights, every step | the same | dense, of which a part takes part |
//! | `gmp` | smallest magnitude, more and more | – | dense at first, then sparse |
//! | `rigl` | smallest magnitude | largest dense gradient | sparse |
//! | `gse` | smallest magnitude | largest gradient in a sample | sparse |
//! | `granet` | smallest magnitude, more and more | largest dense gradient | sparse |
//! | `mest` | smallest magnitude of weight and gradient | random | sparse |
//! | `srigl` | smallest magnitude, and rows of little use | largest dense gradient of each row | sparse, and two dense arrays at updates |
//! | `chts`, `chtss` | small magnitude, by chance | predicted links, by chance | sparse |
//! | `lottery` | – | – | sparse |
//!
//! # One update by hand
//!
//! ```
//! use rigl::topology::{kept_pattern, rewire, select_kept};
//! use sparse_kernels::CsrPattern;
//!
//! // One row of eight weights, four of which exist; half of them are replaced.
//! let pattern = CsrPattern::new(1, 8, vec![0, 4], vec![0, 1, 3, 6])?;
//! let values = [0.5, -0.1, 0.2, -0.4];
//! let kept = select_kept(&values, 2)?;
//! assert_eq!(kept_pattern(&pattern, &kept)?.col_indices(), &[0, 6]);
//! // Column 3 was dropped and comes back: it keeps its value. Column 5 is new.
//! let rewired = rewire(&pattern, &kept, &[(0, 5), (0, 3)])?;
//! assert_eq!(rewired.pattern.col_indices(), &[0, 3, 5, 6]);
//! assert_eq!(rewired.map, [0, 2, u32::MAX, 3]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

/// Compiles and runs the worked example of the guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/adding-a-method.md")]
struct AddingAMethod;

mod choice;
pub mod distribution;
pub mod flops;
pub mod method;
pub mod methods;
#[cfg(test)]
mod paper_models;
pub mod schedule;
pub mod scheduled;
#[cfg(feature = "autograd")]
pub mod sparse_loop;
pub mod topology;

pub use choice::UnknownChoice;
pub use distribution::{Distribution, DistributionError, LayerDensity, LayerShape, Override, nnz_for_density, solve};
pub use flops::{ConvGeometry, FlopsConvention, FlopsError, GradualPruning, LayerGeometry, Padding, TrainingRule};
pub use method::{
    GradientNeed, Layer, LayerUpdate, Layers, Method, MethodError, MethodInfo, MethodOptions, MethodState,
    ParameterInfo, StepIntent, UpdateGradient, UpdateTimes, WeightStorage,
};
pub use methods::{build_method, find_method, method_names, methods};
pub use schedule::{DropSchedule, LoopSemantics, ScheduleError, ScheduleOptions, ScheduleState, UpdateSchedule};
pub use scheduled::{Rewiring, Scheduled, Update};
#[cfg(feature = "autograd")]
pub use sparse_loop::{LinearIds, LoopError, SparseLoop};
pub use topology::{Kept, Rewired, TopologyError};
