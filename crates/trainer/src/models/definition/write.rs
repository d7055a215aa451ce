//! A network as the text of a file, in one form: no blocks, defaults left out, names only where something depends on them.

use std::collections::BTreeSet;
use std::fmt::Write;

use rigl::Padding;

use super::keys::{MASKINGS, default_counting};
use super::read::FIRST_WEIGHTS;
use super::{ConvOp, Definition, Input, InputShape, Op, Outputs, Step, has_bias_by_default, readers};
use crate::models::family::FirstWeights;
use crate::models::graph::Masking;

impl Definition {
    /// The text that [`Definition::parse`] makes the same network of. Equal networks have equal text.
    pub fn to_toml(&self) -> String {
        let mut text = format!("name = \"{}\"\n", self.name);
        let input = input(&self.input);
        if !input.is_empty() {
            let _ = writeln!(text, "input = {{ {} }}", input.join(", "));
        }
        if self.first_weights != FirstWeights::He {
            let _ = writeln!(text, "first-weights = \"{}\"", word(&FIRST_WEIGHTS, self.first_weights));
        }
        text.push_str("layers = [\n");
        let entries = self.entries();
        let names = self.names(&entries);
        for &Entry { first, last, relu, dropout } in &entries {
            let step = &self.steps[first];
            let mut keys = vec![format!("kind = \"{}\"", step.kind())];
            if !names[last].is_empty() {
                keys.push(format!("name = \"{}\"", names[last]));
            }
            if step.inputs[0] != first {
                keys.push(format!("from = \"{}\"", names[step.inputs[0]]));
            }
            match &step.inputs[1..] {
                [] => {}
                [with] => keys.push(format!("with = {}", quoted(&names[*with]))),
                with => {
                    let names: Vec<_> = with.iter().map(|&with| quoted(&names[with])).collect();
                    keys.push(format!("with = [{}]", names.join(", ")));
                }
            }
            self.keys(&mut keys, first, step);
            keys.extend(relu.then(|| "relu = true".to_owned()));
            keys.extend(dropout.then(|| "dropout = true".to_owned()));
            let _ = writeln!(text, "  {{ {} }},", keys.join(", "));
        }
        text.push_str("]\n");
        text
    }

    /// The steps as a file has them: a ReLU and a dropout behind a layer that nothing else reads are keys of that layer.
    fn entries(&self) -> Vec<Entry> {
        let readers = readers(&self.steps);
        let mut entries = vec![];
        let mut first = 0;
        while let Some(step) = self.steps.get(first) {
            let follows = |last: usize, op: &Op| {
                let follower = self.steps.get(last).filter(|follower| follower.inputs == [last] && follower.op == *op);
                follower.filter(|_| readers[last] == 1)
            };
            let has_flags = matches!(step.op, Op::Linear { .. } | Op::Conv(_) | Op::BatchNorm { .. });
            let mut last = first + 1;
            let relu = (has_flags || matches!(step.op, Op::Add | Op::Concat)) && follows(last, &Op::Relu).is_some();
            last += usize::from(relu);
            let dropout = has_flags && follows(last, &Op::Dropout).is_some_and(|dropout| dropout.name == step.name);
            last += usize::from(dropout);
            entries.push(Entry { first, last, relu, dropout });
            first = last;
        }
        entries
    }

    /// Names of the entries' values: those of layers with parameters are their own; others have one, made of kind and number,
    /// where an entry names them.
    fn names(&self, entries: &[Entry]) -> Vec<String> {
        let mut needed = vec![false; self.steps.len() + 1];
        for &Entry { first, .. } in entries {
            let inputs = &self.steps[first].inputs;
            needed[inputs[0]] |= inputs[0] != first;
            inputs[1..].iter().for_each(|&input| needed[input] = true);
        }
        let own: BTreeSet<&str> = self.steps.iter().map(|step| &*step.name).collect();
        let mut names = vec![String::new(); self.steps.len() + 1];
        names[0] = "input".to_owned();
        for &Entry { first, last, .. } in entries {
            let step = &self.steps[first];
            names[last] = match &*step.name {
                "" if needed[last] => {
                    let mut name = format!("{}-{last}", step.kind());
                    while own.contains(&*name) {
                        name.push('_');
                    }
                    name
                }
                own => own.to_owned(),
            };
        }
        names
    }

    /// The keys of a step's own.
    fn keys(&self, keys: &mut Vec<String>, index: usize, step: &Step) {
        let mut key = |name: &str, value: String| keys.push(format!("{name} = {value}"));
        match &step.op {
            Op::Linear { outputs, bias, masking } => {
                key("outputs", written(*outputs));
                if !bias {
                    key("bias", "false".to_owned());
                }
                if *masking != Masking::Any {
                    key("sparse", quoted(word(&MASKINGS, *masking)));
                }
            }
            Op::Conv(ConvOp { outputs, kernel, stride, padding, groups, bias, masking, counted_as }) => {
                if let Some(outputs) = outputs {
                    key("outputs", written(*outputs));
                }
                key("kernel", kernel.to_string());
                if *stride != 1 {
                    key("stride", stride.to_string());
                }
                if kernel % 2 == 0 || *padding != kernel / 2 {
                    key("padding", padding.to_string());
                }
                if *groups != 1 {
                    key("groups", groups.to_string());
                }
                if *bias != has_bias_by_default(&self.steps, index + 1) {
                    key("bias", bias.to_string());
                }
                if *masking != if outputs.is_none() { Masking::Never } else { Masking::Any } {
                    key("sparse", quoted(word(&MASKINGS, *masking)));
                }
                if *counted_as != default_counting(*kernel, *padding) {
                    let counted_as = match counted_as {
                        Padding::Same => quoted("same"),
                        Padding::Valid => quoted("valid"),
                        Padding::Explicit { total } => total.to_string(),
                    };
                    key("counted-as", counted_as);
                }
            }
            Op::BatchNorm { zero_scale, relu6 } => {
                for (name, _) in [("zero-scale", zero_scale), ("relu6", relu6)].into_iter().filter(|(_, given)| **given)
                {
                    key(name, "true".to_owned());
                }
            }
            Op::Pool { size, stride, padding, .. } => {
                key("size", size.to_string());
                if stride != size {
                    key("stride", stride.to_string());
                }
                if *padding != 0 {
                    key("padding", padding.to_string());
                }
            }
            Op::Relu | Op::Dropout | Op::Add | Op::Concat | Op::GlobalAveragePool | Op::Flatten => {}
        }
    }
}

/// Steps that are one layer of a file, the one after `last` not included.
struct Entry {
    first: usize,
    /// The number of its value.
    last: usize,
    relu: bool,
    dropout: bool,
}

/// The keys of the input; none if the first layer and the data say all.
fn input(&Input { shape, classes, open }: &Input) -> Vec<String> {
    let mut keys = vec![];
    let mut key = |name: &str, value: Option<String>| keys.extend(value.map(|value| format!("{name} = {value}")));
    match shape {
        InputShape::Features(features) => key("features", features.map(|features| features.to_string())),
        InputShape::Images { channels, size } => {
            key("channels", channels.map(|channels| channels.to_string()));
            key(
                "size",
                size.map(|[height, width]| match height == width {
                    true => height.to_string(),
                    false => format!("[{height}, {width}]"),
                }),
            );
        }
    }
    key("classes", classes.map(|classes| classes.to_string()));
    let says_something = !keys.is_empty();
    keys.extend((says_something && open).then(|| "open = true".to_owned()));
    keys
}

fn written(outputs: Outputs) -> String {
    match outputs {
        Outputs::Number(number) => number.to_string(),
        Outputs::Classes => quoted("classes"),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

/// The word of a value.
fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, meant)| *meant == value).map_or("", |(word, _)| word)
}
