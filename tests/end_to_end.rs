//! The command as a user runs it, and the crates together.

mod command;
mod comparison;
mod data;
mod determinism;
mod exchange;
mod gpu;
mod landscape;
mod lists;
mod managing;
mod methods;
mod own_data;
mod own_networks;
mod pictures;
mod published_numbers;
mod resume;
mod running;
mod text;
