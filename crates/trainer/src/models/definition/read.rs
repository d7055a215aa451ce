//! A network from a file: blocks are unfolded, names become numbers of steps.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use toml::de::DeTable;

pub use super::tree::DefinitionError;
use super::tree::{Fields, Parameters, Places, Result, Value, as_number, short};
use super::{Definition, Input, InputShape, MOST_STEPS, Op, Step, has_bias_by_default, keys};
use crate::models::build_error::{LONGEST_NAME, is_name};
use crate::models::family::FirstWeights;

/// The most bytes of a file.
const LARGEST_FILE: u64 = 1 << 20;
/// The most blocks within blocks.
const DEEPEST: usize = 16;
/// The most tables that are looked at: blocks within blocks multiply.
const MOST_TABLES: usize = 8 * MOST_STEPS;
/// The most parameters of a block.
const MOST_PARAMETERS: usize = 64;
/// The name of what a network, or a block, reads.
const INPUT: &str = "input";
/// Where a block's number goes in its name.
const NUMBER: &str = "{i}";
/// The keys of a block where it is used; all others are parameters.
const OF_BLOCK: [&str; 5] = ["block", "name", "from", "repeat", "first"];

/// How first weights are drawn, by their words.
pub(super) const FIRST_WEIGHTS: [(&str, FirstWeights); 3] =
    [("glorot", FirstWeights::Glorot), ("lecun", FirstWeights::Lecun), ("he", FirstWeights::He)];

impl Definition {
    /// The network of a text. `file` is for messages.
    ///
    /// # Errors
    /// [`DefinitionError`] with the line and the reason: what is no TOML, unknown kinds, keys and names, names given twice,
    /// values out of range, blocks that contain themselves, too many layers.
    ///
    /// # Cost
    /// Time and memory follow the text and the layers that it unfolds to, of which there may be 4096.
    pub fn parse(text: &str, file: Option<&Path>) -> Result<Self> {
        let places = Places::new(text, file);
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            places.error(at, error.message().to_owned())
        })?;
        let none = Parameters::new();
        let fields = Fields::of_table(&places, table.get_ref(), &none);
        fields.know("a network", &["name", "input", "first-weights", "layers", "blocks"])?;
        let name = fields.needed("a network", "name (`name = \"...\"`)", fields.text("name")?)?;
        if !is_name(name) {
            let rule = "1 to 100 letters, digits, `_`, `-` and single `.`, and begin with a letter, a digit or `_`";
            return Err(fields.error_at("name", format!("name is \"{}\"; it must have {rule}", short(name))));
        }
        let layers = fields.needed("a network", "list of layers (`layers = [ ... ]`)", fields.list("layers")?)?;
        let mut reader = Reader {
            places: &places,
            blocks: blocks(&places, &fields)?,
            steps: vec![],
            biases: vec![],
            lines: vec![],
            names: BTreeMap::new(),
            tables: 0,
        };
        let scope = Scope { prefixes: vec![String::new()], input: 0, parameters: Rc::default(), within: vec![] };
        reader.layers(&scope, layers, fields.place("layers"), "a network")?;
        let Reader { mut steps, biases, lines, .. } = reader;
        let by_default: Vec<_> = (1..=steps.len()).map(|output| has_bias_by_default(&steps, output)).collect();
        for ((step, given), by_default) in steps.iter_mut().zip(biases).zip(by_default) {
            match &mut step.op {
                Op::Linear { bias, .. } => *bias = given.unwrap_or(true),
                Op::Conv(conv) => conv.bias = given.unwrap_or(by_default),
                _ => {}
            }
        }
        let first_weights = fields.word("first-weights", &FIRST_WEIGHTS)?.unwrap_or(FirstWeights::He);
        let input = input(&places, &fields, &steps)?;
        Ok(Self { name: name.to_owned(), input, first_weights, steps, lines, file: file.map(Path::to_owned) })
    }

    /// The network of a file.
    ///
    /// # Errors
    /// As [`Definition::parse`]; or if the file cannot be read, is larger than a mebibyte, or not UTF-8.
    pub fn load(path: &Path) -> Result<Self> {
        let unreadable = |error: std::io::Error| DefinitionError::of_file(path, error);
        let mut bytes = vec![];
        File::open(path).map_err(unreadable)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(DefinitionError::of_file(path, "a network's file may have at most 1 MiB"));
        }
        let text = String::from_utf8(bytes);
        let text =
            text.map_err(|_| DefinitionError::of_file(path, "it is no text (not UTF-8); a TOML file is needed"))?;
        Self::parse(&text, Some(path))
    }
}

/// The input, as far as the file says it.
fn input(places: &Places, fields: &Fields<'_, '_>, steps: &[Step]) -> Result<Input> {
    // Without a word on it, the first layer tells.
    let reads_input = |step: &&Step| step.inputs.contains(&0);
    let linear = steps.iter().find(reads_input).is_some_and(|step| matches!(step.op, Op::Linear { .. }));
    let unsaid = if linear { InputShape::Features(None) } else { InputShape::Images { channels: None, size: None } };
    let Some(value) = fields.get("input")? else {
        return Ok(Input { shape: unsaid, classes: None, open: true });
    };
    let none = Parameters::new();
    let fields = Fields::new(places, value, "input", &none)?;
    fields.know("the input", &["channels", "size", "features", "classes", "open"])?;
    const SIZES: std::ops::RangeInclusive<usize> = 1..=65_536;
    let (channels, features) = (fields.number("channels", SIZES)?, fields.number("features", 1..=1 << 24)?);
    let size = match fields.get("size")? {
        None => None,
        Some(value) => {
            let side = |value: &Value<'_>| as_number(value).filter(|side| SIZES.contains(side));
            let size = match value.get_ref().as_array().map(|list| &**list) {
                Some([height, width]) => side(height).zip(side(width)).map(|(height, width)| [height, width]),
                Some(_) => None,
                None => side(value).map(|side| [side; 2]),
            };
            let rule = format!("a side in pixels or [height, width], from 1 to {}", SIZES.end());
            Some(size.ok_or_else(|| fields.wrong("size", value, rule))?)
        }
    };
    let shape = match (features, channels.is_some() || size.is_some()) {
        (Some(_), true) => {
            return Err(fields.error("the input is features or images: give features, or channels and size"));
        }
        (Some(_), false) => InputShape::Features(features),
        (None, true) => InputShape::Images { channels, size },
        (None, false) => unsaid,
    };
    let classes = fields.number("classes", 1..=1 << 24)?;
    Ok(Input { shape, classes, open: fields.flag("open")?.unwrap_or(false) })
}

/// A block's layers and where they stand.
type Block<'t> = (&'t [Value<'t>], usize);

fn blocks<'t>(places: &Places, fields: &Fields<'_, 't>) -> Result<BTreeMap<&'t str, Block<'t>>> {
    let Some(value) = fields.get("blocks")? else { return Ok(BTreeMap::new()) };
    let none = Parameters::new();
    let mut blocks = BTreeMap::new();
    for (name, at, value) in Fields::new(places, value, "blocks", &none)?.entries()? {
        let what = format!("block `{}`", short(name));
        let fields = Fields::new(places, value, &what, &none)?;
        fields.know(&what, &["layers"])?;
        let layers = fields.needed(&what, "list of layers (`layers = [ ... ]`)", fields.list("layers")?)?;
        blocks.insert(name, (layers, at));
    }
    Ok(blocks)
}

/// Where layers stand: in the network, or in a block.
struct Scope<'t> {
    /// What names begin with: those of the network, of the block in it, and so on.
    prefixes: Vec<String>,
    /// The value that `input` stands for.
    input: usize,
    parameters: Rc<Parameters<'t>>,
    /// The blocks that this is within.
    within: Vec<&'t str>,
}

struct Reader<'p, 't> {
    places: &'p Places,
    blocks: BTreeMap<&'t str, Block<'t>>,
    steps: Vec<Step>,
    /// What the file says of the steps' biases.
    biases: Vec<Option<bool>>,
    lines: Vec<usize>,
    /// What names stand for.
    names: BTreeMap<String, usize>,
    tables: usize,
}

impl<'t> Reader<'_, 't> {
    /// Adds layers, one after the other; returns the last one's output.
    fn layers(&mut self, scope: &Scope<'t>, layers: &'t [Value<'t>], at: usize, what: &str) -> Result<usize> {
        if layers.is_empty() {
            return Err(self.places.error(at, format!("{what} must have at least one layer")));
        }
        let mut last = scope.input;
        for (i, value) in layers.iter().enumerate() {
            let places = self.places;
            let fields = Fields::new(places, value, "a layer", &scope.parameters)?;
            self.tables += 1;
            if self.tables > MOST_TABLES {
                return Err(fields.error(format!("the blocks unfold to more than {MOST_TABLES} tables")));
            }
            let from = match fields.text("from")? {
                Some(name) => self.value(scope, &fields, "from", name, &layers[i..])?,
                None => last,
            };
            last = match (fields.get("kind")?.is_some(), fields.text("block")?) {
                (true, None) => self.layer(scope, &fields, from, &layers[i..])?,
                (false, Some(block)) => self.block(scope, &fields, block, from)?,
                _ => return Err(fields.error("a layer needs either a kind (`kind`) or a block (`block`)")),
            };
        }
        Ok(last)
    }

    /// What a name stands for here.
    fn value(
        &self,
        scope: &Scope<'t>,
        fields: &Fields<'_, 't>,
        key: &str,
        name: &str,
        rest: &'t [Value<'t>],
    ) -> Result<usize> {
        if name == INPUT {
            return Ok(scope.input);
        }
        let found = scope.prefixes.iter().rev().find_map(|prefix| self.names.get(&format!("{prefix}{name}")));
        if let Some(&value) = found {
            return Ok(value);
        }
        for later in rest {
            let later = Fields::new(self.places, later, "a layer", &scope.parameters)?;
            if later.text("name")? == Some(name) {
                let reason = format!(
                    "{key} names `{name}`, which does not come before this layer; networks have no cycles: a layer reads only what \
                     stands before it"
                );
                return Err(fields.error_at(key, reason));
            }
        }
        let reason = format!("{key} names `{}`, but no layer before this one has that name", short(name));
        Err(fields.error_at(key, reason))
    }

    /// Gives a name to a value.
    fn name(&mut self, scope: &Scope<'t>, fields: &Fields<'_, 't>, name: &str, value: usize) -> Result<String> {
        let whole = format!("{}{name}", scope.prefixes.last().map_or("", String::as_str));
        if !is_name(&whole) || name == INPUT {
            let rule = "it must have 1 to 100 letters, digits, `_`, `-` and single `.`, begin with a letter, a digit or `_`, and not \
                        be `input`";
            return Err(fields.error_at("name", format!("name is \"{}\"; {rule}", short(&whole))));
        }
        match self.names.insert(whole.clone(), value) {
            None => Ok(whole),
            Some(_) => Err(fields.error_at("name", format!("the name `{whole}` is given twice"))),
        }
    }

    fn push(&mut self, fields: &Fields<'_, 't>, step: Step, bias: Option<bool>) -> Result<usize> {
        if self.steps.len() == MOST_STEPS {
            return Err(fields.error(format!("the network has more than {MOST_STEPS} layers")));
        }
        self.steps.push(step);
        self.biases.push(bias);
        self.lines.push(self.places.line(fields.at));
        Ok(self.steps.len())
    }

    fn layer(
        &mut self,
        scope: &Scope<'t>,
        fields: &Fields<'_, 't>,
        from: usize,
        rest: &'t [Value<'t>],
    ) -> Result<usize> {
        let keys::Layer { op, bias, relu, dropout } = keys::layer(fields)?;
        let mut inputs = vec![from];
        if matches!(op, Op::Add | Op::Concat) {
            for name in fields.texts("with")?.unwrap_or_default() {
                inputs.push(self.value(scope, fields, "with", name, rest)?);
            }
        }
        let given = fields.text("name")?;
        let is_named = matches!(op, Op::Linear { .. } | Op::Conv(_) | Op::BatchNorm { .. } | Op::Dropout);
        if is_named {
            fields.needed(
                &format!("a layer of kind {}", fields.text("kind")?.unwrap_or_default()),
                "name (`name`)",
                given,
            )?;
        }
        // What follows within the layer counts as it: the name is that of the last value.
        let output = self.steps.len() + 1 + usize::from(relu) + usize::from(dropout);
        let name = given.map(|name| self.name(scope, fields, name, output)).transpose()?;
        let name = name.filter(|_| is_named).unwrap_or_default();
        let mut last = self.push(fields, Step { op, name: name.clone(), inputs }, bias)?;
        if relu {
            last = self.push(fields, Step { op: Op::Relu, name: String::new(), inputs: vec![last] }, None)?;
        }
        if dropout {
            last = self.push(fields, Step { op: Op::Dropout, name, inputs: vec![last] }, None)?;
        }
        Ok(last)
    }

    fn block(&mut self, scope: &Scope<'t>, fields: &Fields<'_, 't>, block: &'t str, from: usize) -> Result<usize> {
        let Some(&(layers, at)) = self.blocks.get(block) else {
            let known: Vec<_> = self.blocks.keys().map(|name| short(name)).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            let reason = format!("unknown block `{}`; the blocks of this file: {known}", short(block));
            return Err(fields.error_at("block", reason));
        };
        if let Some(begin) = scope.within.iter().position(|&outer| outer == block) {
            let circle: Vec<_> = scope.within[begin..].iter().chain([&block]).map(|name| short(name)).collect();
            return Err(
                fields.error_at("block", format!("block `{}` contains itself: {}", short(block), circle.join(" > ")))
            );
        }
        if scope.within.len() == DEEPEST {
            return Err(fields.error_at("block", format!("blocks may stand in at most {DEEPEST} others")));
        }
        let parameters: Parameters<'t> = fields
            .entries()?
            .into_iter()
            .filter(|(key, ..)| !OF_BLOCK.contains(key))
            .map(|(key, _, value)| (key, value))
            .collect();
        self.check_parameters(fields, block, layers, &parameters)?;
        let parameters = Rc::new(parameters);
        let repeat = fields.number("repeat", 1..=1000)?;
        let first = fields.number("first", 0..=1_000_000)?.unwrap_or(0);
        let name = fields.text("name")?;
        if name.is_some_and(|name| name.len() > LONGEST_NAME) {
            return Err(fields.error_at("name", format!("name has more than {LONGEST_NAME} characters")));
        }
        if repeat.is_some() && name.is_none() {
            return Err(
                fields.error("a block that is repeated needs a name (`name`), which its layers' names begin with")
            );
        }
        let mut last = from;
        for number in first..first + repeat.unwrap_or(1) {
            let name = name.map(|name| match name.contains(NUMBER) {
                true => name.replace(NUMBER, &number.to_string()),
                false if repeat.is_some() => format!("{name}.{number}"),
                false => name.to_owned(),
            });
            let mut prefixes = scope.prefixes.clone();
            if let Some(name) = &name {
                let outer = scope.prefixes.last().map_or("", String::as_str);
                prefixes.push(format!("{outer}{name}."));
            }
            let within = scope.within.iter().copied().chain([block]).collect();
            let inner = Scope { prefixes, input: last, parameters: Rc::clone(&parameters), within };
            last = self.layers(&inner, layers, at, &format!("block `{}`", short(block)))?;
            if let Some(name) = name {
                self.name(scope, fields, &name, last)?;
            }
        }
        Ok(last)
    }

    /// A block's parameters must be those that its layers use.
    fn check_parameters(
        &self,
        fields: &Fields<'_, 't>,
        block: &str,
        layers: &'t [Value<'t>],
        given: &Parameters<'t>,
    ) -> Result<()> {
        let mut used: Vec<&str> = vec![];
        for layer in layers {
            let Some(table) = layer.get_ref().as_table() else { continue };
            used.extend(table.values().filter_map(|value| value.get_ref().as_str()?.strip_prefix('$')));
        }
        used.sort_unstable();
        used.dedup();
        let block = short(block);
        if used.len() > MOST_PARAMETERS {
            return Err(fields.error(format!("block `{block}` has more than {MOST_PARAMETERS} parameters")));
        }
        if let Some(missing) = used.iter().find(|name| !given.contains_key(*name)) {
            let missing = short(missing);
            return Err(fields.error(format!("block `{block}` needs `{missing}`: its layers say `${missing}`")));
        }
        if let Some(unused) = given.keys().find(|name| !used.contains(name)) {
            let known: Vec<_> =
                OF_BLOCK.iter().copied().map(str::to_owned).chain(used.iter().map(|name| short(name))).collect();
            let reason =
                format!("unknown key `{}` of block `{block}`; its keys are {}", short(unused), known.join(", "));
            return Err(fields.error_at(unused, reason));
        }
        Ok(())
    }
}
