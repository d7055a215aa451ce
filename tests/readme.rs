#![doc = include_str!("../README.md")]
#![doc = ""]
#![doc = "(This library holds nothing: it lets the README's example run as a test.)"]
