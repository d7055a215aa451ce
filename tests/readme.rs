#![doc = include_str!("../README.md")]
#![doc = ""]
#![doc = "(This library is empty: it exists to run the README's example as a test.)"]
