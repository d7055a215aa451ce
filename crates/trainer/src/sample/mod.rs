//! Text from a model, a symbol at a time.
//!
//! ```text
//! prompt → tokens → outputs for the symbol that follows → one of them, by probability → text, and the next outputs
//! ```
//!
//! A recurrent network reads each symbol once and carries its state; a Transformer reads the last window again for each symbol.

mod choice;
mod continuation;
mod decoder;

pub use choice::Choice;
pub use continuation::Continuation;
pub use decoder::Decoder;
