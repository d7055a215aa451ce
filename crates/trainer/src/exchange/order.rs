//! The order of layers in a source that keeps none: a safetensors file, or a folder.
//!
//! ```text
//! an order was asked for                          → that one
//! numbers in the names order all layers, and the
//! layers follow each other so                     → that one
//! exactly one order in which they follow          → that one, whatever the names
//! of several, exactly one that agrees with the
//! numbers in the names                            → that one
//! none                                            → that of the names, which is then refused with a reason
//! several                                         → refused
//! ```
//!
//! Two layers follow each other if the second has as many inputs as the first has outputs.

use std::cmp::Ordering;

/// Why layers have no order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OrderError {
    /// The layers fit together in several ways.
    #[error(
        "the layers fit together in several orders, and the numbers in their names do not decide: {layers}; give the \
         order from input to output with --order NAME,NAME,..."
    )]
    Several {
        /// Names and shapes.
        layers: String,
    },
    /// The order that was asked for is not one of all layers.
    #[error("--order: {name:?} {wrong}; it must have each layer once: {layers}")]
    Wanted {
        /// A name.
        name: String,
        /// What is wrong with it.
        wrong: &'static str,
        /// Names and shapes.
        layers: String,
    },
    /// The source has an order of its own.
    #[error("--order: the model in this file has an order already; leave the option out")]
    Known,
}

/// What an order is found by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unplaced<'n> {
    pub name: &'n str,
    pub outputs: usize,
    /// Unknown of a sparse matrix without metadata: then those that come to it.
    pub inputs: Option<usize>,
}

impl Unplaced<'_> {
    fn follows(&self, outputs: Option<usize>) -> bool {
        match (outputs, self.inputs) {
            (None, inputs) => inputs.is_some(),
            (Some(_), None) => true,
            (Some(outputs), Some(inputs)) => inputs == outputs,
        }
    }
}

/// The layers' positions in `layers`, from input to output.
///
/// # Errors
/// [`OrderError`] if there are several orders, or `wanted` is none.
///
/// # Cost
/// O(n²) for most layers, and bounded for all.
pub(super) fn order(layers: &[Unplaced<'_>], wanted: Option<&[String]>) -> Result<Vec<usize>, OrderError> {
    if let Some(wanted) = wanted {
        return as_wanted(layers, wanted);
    }
    let mut by_name: Vec<usize> = (0..layers.len()).collect();
    by_name.sort_by(|&a, &b| natural_order(layers[a].name, layers[b].name));
    let decided = by_name.windows(2).all(|pair| number_decides(layers[pair[0]].name, layers[pair[1]].name));
    let mut outputs = None;
    let chains = by_name.iter().all(|&at| {
        let follows = layers[at].follows(outputs);
        outputs = Some(layers[at].outputs);
        follows
    });
    if decided && chains {
        return Ok(by_name);
    }
    let sorted: Vec<_> = by_name.iter().map(|&at| layers[at]).collect();
    let place = |order: Vec<usize>| order.into_iter().map(|at| by_name[at]).collect();
    match Search::run(&sorted, false) {
        Found::One(order) => return Ok(place(order)),
        Found::None => return Ok(by_name),
        Found::Several => {}
    }
    match Search::run(&sorted, true) {
        Found::One(order) => Ok(place(order)),
        Found::None | Found::Several => Err(OrderError::Several { layers: list(&sorted) }),
    }
}

fn as_wanted(layers: &[Unplaced<'_>], wanted: &[String]) -> Result<Vec<usize>, OrderError> {
    let refuse = |name: &str, wrong| OrderError::Wanted { name: name.to_owned(), wrong, layers: list(layers) };
    let mut order = Vec::new();
    for name in wanted {
        let at = layers.iter().position(|layer| layer.name == name).ok_or_else(|| refuse(name, "is not a layer"))?;
        if order.contains(&at) {
            return Err(refuse(name, "appears twice"));
        }
        order.push(at);
    }
    match (0..layers.len()).find(|at| !order.contains(at)) {
        Some(at) => Err(refuse(layers[at].name, "is missing")),
        None => Ok(order),
    }
}

/// `a 16×784, b 10×16`, the first of them.
fn list(layers: &[Unplaced<'_>]) -> String {
    const SHOWN: usize = 20;
    let shape = |layer: &Unplaced<'_>| {
        let inputs = layer.inputs.map_or("?".to_owned(), |inputs| inputs.to_string());
        format!("{} {}×{inputs}", layer.name, layer.outputs)
    };
    let mut shown: Vec<_> = layers.iter().take(SHOWN).map(shape).collect();
    if layers.len() > SHOWN {
        shown.push(format!("and {} more", layers.len() - SHOWN));
    }
    shown.join(", ")
}

/// Whether the numbers in two names put the first before the second: the names are the same up to a number that is smaller
/// (`fc1`, `fc2`; `0.a`, `2.b`), or the second is the first with a number behind (`dense`, `dense_1`).
fn number_decides(first: &str, second: &str) -> bool {
    let runs = |name: &str| -> Vec<String> {
        let runs = name.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
        runs.map(|run| String::from_utf8_lossy(run).into_owned()).collect()
    };
    if let Some(rest) = second.strip_prefix(first).filter(|_| !first.is_empty() && !ends_in_digit(first)) {
        let number = rest.strip_prefix(['_', '-', '.']).unwrap_or(rest);
        return !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    }
    let (first, second) = (runs(first), runs(second));
    let Some((a, b)) = first.iter().zip(&second).find(|(a, b)| a != b) else { return false };
    let differ = a.trim_start_matches('0') != b.trim_start_matches('0');
    ends_in_digit(a) && ends_in_digit(b) && differ && natural_order(a, b).is_lt()
}

fn ends_in_digit(text: &str) -> bool {
    text.ends_with(|last: char| last.is_ascii_digit())
}

/// What a search has found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    None,
    One(Vec<usize>),
    /// Two, or more than it could look through.
    Several,
}

/// Looks for orders in which layers follow each other.
struct Search<'l> {
    layers: &'l [Unplaced<'l>],
    /// Whether numbers in names must agree.
    by_numbers: bool,
    order: Vec<usize>,
    used: Vec<bool>,
    found: Found,
    /// A file may have thousands of equal layers, with names of any length: looks at layers that may still be taken.
    left: usize,
}

impl<'l> Search<'l> {
    const MOST_LOOKS: usize = 1 << 18;

    fn run(layers: &'l [Unplaced<'l>], by_numbers: bool) -> Found {
        let (order, used) = (Vec::new(), vec![false; layers.len()]);
        let mut search = Self { layers, by_numbers, order, used, found: Found::None, left: Self::MOST_LOOKS };
        search.extend(None);
        search.found
    }

    /// Every order that continues the present one.
    fn extend(&mut self, outputs: Option<usize>) {
        if self.order.len() == self.layers.len() {
            self.found = match self.found {
                Found::None => Found::One(self.order.clone()),
                _ => Found::Several,
            };
            return;
        }
        for at in 0..self.layers.len() {
            let may = !self.used[at] && self.layers[at].follows(outputs) && self.is_first(at);
            match self.left.checked_sub(1) {
                Some(left) => self.left = left,
                None => self.found = Found::Several,
            }
            if self.found == Found::Several {
                return;
            }
            if may {
                self.used[at] = true;
                self.order.push(at);
                self.extend(Some(self.layers[at].outputs));
                self.order.pop();
                self.used[at] = false;
            }
        }
    }

    /// Whether no number puts another layer that is left before this one.
    fn is_first(&mut self, at: usize) -> bool {
        if !self.by_numbers {
            return true;
        }
        self.left = self.left.saturating_sub(self.layers.len());
        let mut others = (0..self.layers.len()).filter(|&other| other != at && !self.used[other]);
        !others.any(|other| number_decides(self.layers[other].name, self.layers[at].name))
    }
}

/// Orders names as a reader would: numbers in them by value, so that `fc2` comes before `fc10`.
pub(super) fn natural_order(a: &str, b: &str) -> Ordering {
    natural_key(a).cmp(natural_key(b)).then_with(|| a.cmp(b))
}

/// Numbers before text; numbers by their digits without leading zeros, the shorter first.
fn natural_key(name: &str) -> impl Iterator<Item = (bool, usize, &[u8])> {
    let runs = name.as_bytes().chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    runs.map(|run| {
        if !run[0].is_ascii_digit() {
            return (true, 0, run);
        }
        let zeros = run.iter().take_while(|&&digit| digit == b'0').count();
        (false, run.len() - zeros, &run[zeros..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_names_order_by_value() {
        let mut names =
            ["fc10", "b", "fc2", "", "10.0", "2.1", "fc", "2.10", "fc02", "a1b2", "a1b10", "99999999999999999999999"];
        names.sort_by(|a, b| natural_order(a, b));
        let expected =
            ["", "2.1", "2.10", "10.0", "99999999999999999999999", "a1b2", "a1b10", "b", "fc", "fc02", "fc2", "fc10"];
        assert_eq!(names, expected);
    }

    fn found(layers: &[(&str, usize, usize)]) -> Result<String, OrderError> {
        found_as(layers, None)
    }

    fn found_as(layers: &[(&str, usize, usize)], wanted: Option<&str>) -> Result<String, OrderError> {
        let unplaced = |&(name, outputs, inputs)| Unplaced { name, outputs, inputs: (inputs > 0).then_some(inputs) };
        let layers: Vec<_> = layers.iter().map(unplaced).collect();
        let wanted = wanted.map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>());
        let order = order(&layers, wanted.as_deref())?;
        Ok(order.into_iter().map(|at| layers[at].name).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn sizes_that_allow_one_order_decide() {
        for (layers, expected) in [
            (&[("hidden", 32, 16), ("input", 16, 784), ("output", 10, 32)][..], "input hidden output"),
            (&[("b", 10, 16), ("a", 16, 784)], "a b"),
            // Against the numbers.
            (&[("1", 10, 16), ("2", 16, 784)], "2 1"),
            (&[("fc1", 16, 784), ("fc2", 16, 16), ("out", 10, 16)], "fc1 fc2 out"),
            (&[("x", 3, 5)], "x"),
            // Unknown inputs.
            (&[("out", 10, 0), ("in", 16, 784)], "in out"),
            // No order fits: that of the names is the one to report.
            (&[("b", 10, 15), ("a", 16, 784)], "a b"),
            (&[("b", 10, 0), ("a", 16, 0)], "a b"),
            (&[], ""),
        ] {
            assert_eq!(found(layers).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn numbers_decide_among_orders_that_fit() {
        for (layers, expected) in [
            (&[("fc10", 16, 16), ("fc2", 16, 16), ("fc1", 16, 784)][..], "fc1 fc2 fc10"),
            (&[("4", 10, 16), ("2", 16, 16), ("0", 16, 16)], "0 2 4"),
            (&[("dense_2", 8, 8), ("dense_1", 8, 8), ("dense", 8, 8)], "dense dense_1 dense_2"),
            // Numbers in the middle, and names without beside them that the sizes place.
            (&[("h.1.lin", 8, 8), ("h.0.lin", 8, 8), ("out", 3, 8), ("in", 8, 9)], "in h.0.lin h.1.lin out"),
        ] {
            assert_eq!(found(layers).as_deref(), Ok(expected));
        }
        // Many equal layers cost no search.
        let names: Vec<_> = (0..3000).map(|i| format!("layers.{i}.linear")).collect();
        let layers: Vec<_> = names.iter().rev().map(|name| (name.as_str(), 8, 8)).collect();
        assert_eq!(found(&layers).unwrap(), names.join(" "));
    }

    #[test]
    fn several_orders_are_refused_with_the_layers() {
        let equal = [("a_in", 16, 784), ("c_mid", 16, 16), ("b_mid", 16, 16), ("d_out", 10, 16)];
        let expected = "the layers fit together in several orders, and the numbers in their names do not decide: a_in 16×784, \
                        b_mid 16×16, c_mid 16×16, d_out 10×16; give the order from input to output with --order NAME,NAME,...";
        assert_eq!(found(&equal).unwrap_err().to_string(), expected);
        for layers in [
            // An autoencoder's halves fit both ways round.
            &[("decoder", 784, 16), ("encoder", 16, 784)][..],
            &[("encoder.0", 9, 16), ("encoder.2", 4, 9), ("decoder.0", 9, 4), ("decoder.2", 16, 9)],
            &[("a", 8, 8), ("b", 8, 8)],
            &[("fc1", 8, 8), ("fc01", 8, 8)],
            // The numbers contradict every order.
            &[("fc1", 8, 8), ("fc2", 8, 9), ("fc3", 8, 8)],
            &[("in", 16, 784), ("b", 16, 0), ("c", 10, 0)],
        ] {
            assert!(matches!(found(layers), Err(OrderError::Several { .. })), "{layers:?}: {:?}", found(layers));
        }
        let names: Vec<_> = (0..3000).map(|i| format!("{}x", "a".repeat(i % 100))).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), 8, 8)).collect();
        let text = found(&many).unwrap_err().to_string();
        assert!(text.contains("and 2980 more") && text.len() < 3000, "{text}");
    }

    #[test]
    fn an_order_can_be_given() {
        let equal = [("a_in", 16, 784), ("c_mid", 16, 16), ("b_mid", 16, 16), ("d_out", 10, 16)];
        let given = |names| found_as(&equal, Some(names)).map_err(|error| error.to_string());
        assert_eq!(given("a_in,c_mid,b_mid,d_out").as_deref(), Ok("a_in c_mid b_mid d_out"));
        for (names, part) in [
            (
                "a_in,c_mid,d_out",
                "--order: \"b_mid\" is missing; it must have each layer once: a_in 16×784, c_mid 16×16",
            ),
            ("a_in,c_mid,c_mid,d_out", "\"c_mid\" appears twice"),
            ("a_in,c,b_mid,d_out", "\"c\" is not a layer"),
        ] {
            assert!(given(names).unwrap_err().contains(part), "{names}: {:?}", given(names));
        }
    }
}
