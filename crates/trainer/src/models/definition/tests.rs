//! Definitions of the zoo's networks, by hand and printed; what is wrong with others.

use std::path::Path;
use std::sync::Arc;

use super::Definition;
use crate::models::{Architecture, BuildError, Builder, Conv, ModelName, ModelSpec, Node, Stem};

/// A network of each family, or of each of its shapes: name, side, classes.
const ZOO: [(&str, usize, usize); 17] = [
    ("lenet-300-100", 28, 10),
    ("20-30-10", 1, 10),
    ("12-3", 1, 3),
    ("lenet-5", 28, 10),
    ("lenet-5", 32, 7),
    ("wrn-10-1", 32, 10),
    ("wrn-22-2", 32, 100),
    ("resnet-18", 32, 10),
    ("resnet-18", 224, 1000),
    ("resnet-34", 64, 10),
    ("resnet-50", 224, 1000),
    ("mobilenet-v1", 224, 1000),
    ("mobilenet-v1", 32, 10),
    ("mobilenet-v2", 96, 10),
    ("mobilenet-v2-relu6", 96, 10),
    ("vgg-16", 224, 1000),
    ("vgg-16", 32, 10),
];

fn zoo(name: &str, side: usize, classes: usize) -> Architecture {
    let spec = ModelSpec::of(&name.parse().unwrap());
    let channels = spec.channels;
    Architecture::new(&spec.on(channels, [side; 2], classes)).unwrap()
}

fn own(definition: Definition, like: &Architecture) -> Result<Architecture, BuildError> {
    let name = ModelName::Own(Arc::new(definition));
    let ModelSpec { channels, size, classes, .. } = like.spec;
    let spec = ModelSpec::of(&name);
    Architecture::new(&if like.is_mlp() { spec } else { spec.on(channels, size, classes) })
}

/// Printed and read again, a network of the zoo is that network.
#[test]
fn every_network_of_the_zoo_can_be_said() {
    for (name, side, classes) in ZOO {
        let zoo = zoo(name, side, classes);
        let text = Definition::of(&zoo).to_toml();
        let read = Definition::parse(&text, None).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
        assert_eq!(read.to_toml(), text);
        assert_eq!(own(read, &zoo).unwrap_or_else(|error| panic!("{name}: {error}\n{text}")), zoo, "{name}\n{text}");
    }
}

/// The graph that a definition makes is the zoo's without its name too: nothing of it comes from there.
#[test]
fn a_definition_by_another_name_makes_the_same_graph() {
    for (name, side, classes) in ZOO {
        let zoo = zoo(name, side, classes);
        let text = Definition::of(&zoo).to_toml().replace(&format!("name = \"{name}\""), "name = \"other\"");
        let other = own(Definition::parse(&text, None).unwrap(), &zoo).unwrap();
        assert!(matches!(&other.spec.name, ModelName::Own(own) if own.name() == "other"));
        assert_eq!((other.layers, other.norms, other.graph), (zoo.layers, zoo.norms, zoo.graph), "{name}");
    }
}

#[test]
fn another_width_or_stem_is_said_as_it_is() {
    let spec = ModelSpec::of(&"mobilenet-v1".parse().unwrap()).with_width(0.5);
    let half = Architecture::new(&spec).unwrap();
    let definition = Definition::of(&half);
    assert_eq!(definition.name(), "mobilenet-v1-width-0.5");
    assert_eq!(own(definition, &half).unwrap().graph, half.graph);
    let spec = ModelSpec::of(&"resnet-18".parse().unwrap()).with_stem(Stem::Cifar);
    let cifar = Architecture::new(&spec).unwrap();
    assert_eq!(own(Definition::of(&cifar), &cifar).unwrap(), cifar);
}

fn examples() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/networks")
}

/// The files written by hand, with blocks, are the zoo's networks too.
#[test]
fn examples_are_the_networks_of_their_names() {
    let cases = [
        ("lenet-5", 28, 10),
        ("wrn-10-1", 32, 10),
        ("resnet-18", 32, 10),
        ("mobilenet-v2", 224, 1000),
        ("mobilenet-v2", 32, 7),
    ];
    for (name, side, classes) in cases {
        let definition = Definition::load(&examples().join(format!("{name}.toml"))).unwrap();
        let zoo = zoo(name, side, classes);
        assert_eq!(own(definition.clone(), &zoo).unwrap_or_else(|error| panic!("{error}")), zoo);
        // Unfolded it is what the zoo prints, but for the sizes that the file assumes.
        let layers = |text: String| text[text.find("layers").unwrap()..].to_owned();
        assert_eq!(layers(definition.to_toml()), layers(Definition::of(&zoo).to_toml()));
    }
}

/// Whatever shapes a file's layers make, the error says the line.
#[test]
fn shapes_that_do_not_meet_are_named_with_their_line() {
    for (layers, line, parts) in [
        (
            "{kind='flatten'},\n{kind='conv',name='c',outputs=2,kernel=3}",
            4,
            &["c reads images but gets 192 features"][..],
        ),
        (
            "{kind='relu'},\n{kind='linear',name='l',outputs='classes'}",
            4,
            &["l reads features but gets images of 3×8×8", "flatten"],
        ),
        ("{kind='conv',name='c',outputs=2,kernel=3},\n{kind='add',with='input'}", 4, &["one shape", "2×8×8", "3×8×8"]),
        ("{kind='conv',name='c',outputs=4,kernel=9,padding=0}", 3, &["c: ", "at least the filter's extent"]),
        ("{kind='conv',name='c',outputs=4,kernel=3,groups=2}", 3, &["c: ", "groups", "divisor"]),
        ("{kind='max-pool',size=16}", 3, &["max-pool: ", "at least the window's extent"]),
        ("{kind='flatten'},\n{kind='batch-norm',name='n'}", 4, &["n reads images but gets 192 features"]),
        (
            "{kind='conv',name='c',outputs=16777216,kernel=255,padding=255},{kind='conv',name='d',outputs=16777216,kernel=1}",
            3,
            &["c", "weights"],
        ),
        ("{kind='conv',name='c',outputs=16777216,kernel=1}", 3, &[]),
        (
            "{kind='conv',name='c',outputs=16777216,kernel=3,padding=3},\n{kind='conv',name='d',outputs=16777216,kernel=1}",
            3,
            &["c would make images of 16777216×12×12"],
        ),
        (
            "{kind='conv',name='c',outputs=5,kernel=1,counted-as=0},\n{kind='flatten'},\n{kind='linear',name='l',outputs='classes'}",
            0,
            &[],
        ),
        (
            "{kind='conv',name='c',outputs=5,kernel=9,padding=1,counted-as='valid'}",
            3,
            &["c: the padding that is counted does not fit"],
        ),
    ] {
        let text = format!("name = 'net'\nlayers = [\n{layers}]\n");
        let definition =
            Definition::parse(&text, Some(Path::new("net.toml"))).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let spec = ModelSpec::of(&ModelName::Own(Arc::new(definition))).on(3, [8, 8], 4);
        let built = Architecture::new(&spec);
        let Err(error) = built else {
            assert_eq!(line, 0, "{text}");
            continue;
        };
        let error = error.to_string();
        if !parts.is_empty() {
            assert!(error.starts_with(&format!("net.toml:{line}: ")), "{error}\n{text}");
        }
        assert!(parts.iter().all(|part| error.contains(part)), "{error}\n{text}");
    }
}

/// Of the network as a whole, the file is named.
#[test]
fn networks_that_do_not_end_as_they_should_are_refused() {
    for (layers, parts) in [
        ("{kind='conv',name='c',outputs=4,kernel=3}", &["ends with images of 4×8×8", "4 features"][..]),
        (
            "{kind='flatten'},{kind='linear',name='l',outputs=5}",
            &["ends with 5 features", "4 features, one for each class"],
        ),
        (
            "{kind='conv',name='c',outputs=4,kernel=3},{kind='conv',name='d',from='input',outputs=4,kernel=3},{kind='global-average-pool'}",
            &["no layer reads the output of c"],
        ),
    ] {
        let text = format!("name = 'net'\nlayers = [{layers}]");
        let definition = Definition::parse(&text, Some(Path::new("net.toml"))).unwrap();
        let spec = ModelSpec::of(&ModelName::Own(Arc::new(definition))).on(3, [8, 8], 4);
        let error = Architecture::new(&spec).unwrap_err().to_string();
        assert!(error.starts_with("net.toml: ") && parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let text = "name = 'net'\nlayers = [{kind='relu'},{kind='global-average-pool'}]";
    let definition = Definition::parse(text, None).unwrap();
    let spec = ModelSpec::of(&ModelName::Own(Arc::new(definition))).on(3, [8, 8], 3);
    assert_eq!(Architecture::new(&spec), Err(BuildError::NoLayers));
}

#[test]
fn a_name_of_the_zoo_is_for_its_network_only() {
    let text = std::fs::read_to_string(examples().join("lenet-5.toml")).unwrap();
    let zoo = zoo("lenet-5", 28, 10);
    for (from, to, part) in [
        (
            "outputs = 120",
            "outputs = 121",
            "where this one has the layer fc1, 121×400 with bias with ReLU, it has fc1, 120×400",
        ),
        (", sparse = \"not-uniform\"", "", "conv1 differs in stride, padding, groups, counting or what is sparse"),
        (", dropout = true", "", "its layers are the same, but stand together otherwise"),
        ("\"glorot\"", "\"he\"", "its first weights are drawn otherwise"),
    ] {
        assert!(text.contains(from));
        let changed = Definition::parse(&text.replacen(from, to, 1), None).unwrap();
        let error = own(changed, &zoo).unwrap_err().to_string();
        assert!(error.starts_with("`lenet-5` names another network: ") && error.contains(part), "{error}");
        let renamed = text.replacen(from, to, 1).replace("\"lenet-5\"", "\"mine\"");
        assert!(own(Definition::parse(&renamed, None).unwrap(), &zoo).is_ok());
    }
    // What the file assumes is not what the data must have; at another size LeNet-5 is another network.
    let definition = Definition::parse(&text, None).unwrap();
    let spec = ModelSpec::of(&ModelName::Own(Arc::new(definition))).on(3, [40, 40], 10);
    assert!(matches!(Architecture::new(&spec), Err(BuildError::Taken { .. })));
}

#[test]
fn what_a_file_says_of_its_input_holds_unless_it_is_open() {
    let layers = "layers = [{kind='flatten'},{kind='linear',name='l',outputs='classes'}]";
    let build = |input: &str, channels, size, classes| {
        let definition = Definition::parse(&format!("name = 'net'\n{input}\n{layers}"), None).unwrap();
        let spec = ModelSpec::of(&ModelName::Own(Arc::new(definition))).on(channels, size, classes);
        Architecture::new(&spec).map(|architecture| architecture.inputs())
    };
    let all = "input = {channels=3, size=[4, 5], classes=2}";
    assert_eq!(build(all, 3, [4, 5], 2), Ok(60));
    assert_eq!(build("", 1, [7, 7], 9), Ok(49));
    assert_eq!(build("input = {channels=3, size=4, classes=2, open=true}", 1, [7, 7], 9), Ok(49));
    for (channels, size, classes, part) in [
        (1, [4, 5], 2, "channels 3, not 1"),
        (3, [5, 5], 2, "height 4, not 5"),
        (3, [4, 4], 2, "width 5, not 4"),
        (3, [4, 5], 3, "classes 2, not 3"),
    ] {
        let error = build(all, channels, size, classes).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    // A linear layer first: all numbers of a sample.
    let text = "name = 'net'\nlayers = [{kind='linear',name='l',outputs='classes'}]";
    let features = Definition::parse(text, None).unwrap();
    assert!(features.reads_features());
    let spec = ModelSpec::of(&ModelName::Own(Arc::new(features)));
    assert_eq!(Architecture::new(&spec.clone().on(2, [3, 5], 4)).unwrap().layers[0].dimensions(), [4, 30]);
    assert!(Architecture::new(&spec.on(usize::MAX, [3, 5], 4)).is_err());
}

/// Every wrong file gets its line and a reason that names what would be right.
#[test]
fn wrong_files_are_named_with_their_line() {
    let conv = "{kind='conv',name='c',outputs=2,kernel=3}";
    let many = format!(
        "layers=[{{block='b',name='x',repeat=1000}}]\n[blocks.b]\nlayers=[{{kind='relu'}},{}]",
        "{kind='relu'},".repeat(5)
    );
    let wide = "layers=[{block='a',name='a',repeat=1000}]\n[blocks.a]\nlayers=[{block='b',name='b',repeat=1000}]\n[blocks.b]\nlayers=[{block='c',name='c',repeat=1000}]\n[blocks.c]\nlayers=[{kind='relu'}]";
    for (text, line, parts) in [
        ("", 1, &["needs a list of layers"][..]),
        ("layers=[]", 2, &["at least one layer"]),
        ("layers = [", 2, &[]),
        (
            "layers = [{kind='relu'}]\nlayer = 3",
            3,
            &["unknown key `layer`", "name, input, first-weights, layers, blocks"],
        ),
        ("layers = 3", 2, &["layers is 3", "list"]),
        ("layers = [3]", 2, &["a layer must be a table, not 3"]),
        ("layers = [{}]", 2, &["either a kind (`kind`) or a block (`block`)"]),
        (
            "layers = [\n\n{kind='convolution'}]",
            4,
            &["unknown kind `convolution`", "depthwise-conv", "global-average-pool"],
        ),
        ("layers = [{kind=3}]", 2, &["kind is 3", "text"]),
        ("layers = [{kind='conv',name='c',outputs=2,kernel=3,stirde=2}]", 2, &["unknown key `stirde`", "stride"]),
        (
            "layers = [{kind='relu',outputs=2}]",
            2,
            &["unknown key `outputs` of a layer of kind relu", "kind, name, from"],
        ),
        ("layers = [{kind='conv',name='c',kernel=3}]", 2, &["needs a number of outputs (`outputs`)"]),
        ("layers = [{kind='conv',name='c',outputs=2}]", 2, &["`kernel`"]),
        ("layers = [{kind='conv',outputs=2,kernel=3}]", 2, &["kind conv needs a name"]),
        ("layers = [{kind='conv',name='c',outputs=2,kernel=2}]", 2, &["even kernel needs a padding"]),
        (
            "layers = [{kind='conv',name='c',outputs=0,kernel=3}]",
            2,
            &["outputs is 0", "from 1 to 16777216, or \"classes\""],
        ),
        ("layers = [{kind='conv',name='c',outputs=-1,kernel=3}]", 2, &["outputs is -1"]),
        (
            "layers = [{kind='conv',name='c',outputs=99999999999999999999,kernel=3}]",
            2,
            &["outputs is 99999999999999999999"],
        ),
        ("layers = [{kind='conv',name='c',outputs=2,kernel=3.0}]", 2, &["kernel is 3.0", "whole number"]),
        ("layers = [{kind='conv',name='c',outputs=2,kernel=1000}]", 2, &["kernel is 1000", "256"]),
        ("layers = [{kind='conv',name='c',outputs=2,kernel=3,relu='yes'}]", 2, &["relu is \"yes\"", "true or false"]),
        (
            "layers = [{kind='conv',name='c',outputs=2,kernel=3,sparse='no'}]",
            2,
            &["sparse is \"no\"", "\"any\", \"not-uniform\" or \"never\""],
        ),
        ("layers = [{kind='conv',name='c',outputs=2,kernel=3,counted-as='x'}]", 2, &["counted-as", "\"same\""]),
        ("layers = [{kind='max-pool',size=2,padding=2}]", 2, &["padding is 2", "from 0 to 1"]),
        ("layers = [{kind='relu',from='x'}]", 2, &["from names `x`, but no layer before this one has that name"]),
        ("layers = [{kind='add',with='y'},\n{kind='relu',name='y'}]", 2, &["with names `y`", "no cycles"]),
        ("layers = [{kind='relu',name='y',from='y'}]", 2, &["no cycles"]),
        ("layers = [{kind='add'}]", 2, &["second value (`with`)"]),
        ("layers = [{kind='concat',with=[]}]", 2, &["with is a list", "1 to 64"]),
        ("layers = [{kind='concat',with=[1]}]", 2, &["with is a list", "text in quotes"]),
        ("layers = [{kind='relu',name='y'},\n\n{kind='relu',name='y'}]", 4, &["the name `y` is given twice"]),
        ("layers = [{kind='relu',name='a b'}]", 2, &["name is \"a b\"", "letters"]),
        ("layers = [{kind='relu',name='input'}]", 2, &["not be `input`"]),
        ("layers = [{kind='relu',name='../x'}]", 2, &["name is \"../x\""]),
        ("layers = [{block='b'}]", 2, &["unknown block `b`", "there are none"]),
        ("layers = [{block='b'}]\n[blocks.c]\nlayers=[]", 2, &["unknown block `b`", "c"]),
        ("layers = [{block='b'}]\n[blocks.b]\nlayers=[]", 3, &["block `b` must have at least one layer"]),
        (
            "layers = [{block='b'}]\n[blocks.b]\nlayers=[{block='c'}]\n[blocks.c]\nlayers=[{block='b'}]",
            6,
            &["block `b` contains itself: b > c > b"],
        ),
        ("layers = [{block='b',repeat=2}]\n[blocks.b]\nlayers=[{kind='relu'}]", 2, &["repeated needs a name"]),
        (
            "layers = [{block='b',repeat=2000,name='x'}]\n[blocks.b]\nlayers=[{kind='relu'}]",
            2,
            &["repeat is 2000", "1000"],
        ),
        (
            "layers = [{block='b',x=2}]\n[blocks.b]\nlayers=[{kind='relu'}]",
            2,
            &["unknown key `x` of block `b`", "repeat"],
        ),
        ("layers = [{block='b'}]\n[blocks.b]\nlayers=[{kind='max-pool',size='$s'}]", 2, &["block `b` needs `s`"]),
        ("layers = [{block='b',s='x'}]\n[blocks.b]\nlayers=[{kind='max-pool',size='$s'}]", 2, &["size is \"x\""]),
        ("layers = [{kind='max-pool',size='$s'}]", 2, &["`$s` stands for nothing here"]),
        ("layers = [{block='b'}]\n[blocks.b]\nlayer=[]", 4, &["unknown key `layer` of block `b`"]),
        ("layers = [{block='b'}]\n[blocks]\nb=1", 4, &["block `b` must be a table"]),
        ("layers = [{kind='relu',block='b'}]", 2, &["either a kind"]),
        ("input = {pixels=3}\nlayers=[{kind='relu'}]", 2, &["unknown key `pixels`", "channels, size, features"]),
        ("input = {features=3, size=3}\nlayers=[{kind='relu'}]", 2, &["features or images"]),
        ("input = {size=[1,2,3]}\nlayers=[{kind='relu'}]", 2, &["size is a list", "[height, width]"]),
        ("input = {channels=70000}\nlayers=[{kind='relu'}]", 2, &["channels is 70000"]),
        (
            "first-weights = 'zero'\nlayers=[{kind='relu'}]",
            2,
            &["first-weights is \"zero\"", "\"glorot\", \"lecun\" or \"he\""],
        ),
        (&many, 4, &["more than 4096 layers"]),
        (wide, 0, &["more than"]),
    ] {
        let text = format!("name = 'net'\n{text}");
        let error = Definition::parse(&text, Some(Path::new("net.toml"))).unwrap_err().to_string();
        let place = format!("net.toml:{line}: ");
        assert!(line == 0 || error.starts_with(&place), "{error}\nnot at {place}\n{text}");
        assert!(parts.iter().all(|part| error.contains(part)), "{error}\n{text}");
        assert!(!error.contains('\n') && error.len() < 600, "{error}");
    }
    for (text, part) in [
        (format!("layers = [{conv}]"), "line 1: a network needs a name"),
        (format!("name = 'a/b'\nlayers = [{conv}]"), "line 1: name is \"a/b\""),
        (format!("name = 3\nlayers = [{conv}]"), "line 1: name is 3"),
    ] {
        let error = Definition::parse(&text, None).unwrap_err().to_string();
        assert!(error.starts_with(part), "{error}");
    }
    let error = Definition::load(Path::new("no/such.toml")).unwrap_err().to_string();
    assert!(error.starts_with("no/such.toml: "), "{error}");
}

/// What the fused operations are made of, in whatever way a file says it.
#[test]
fn sums_and_relus_are_part_of_the_operation_before_them() {
    let kinds = |layers: &str| {
        let text = format!("name = 'net'\nlayers = [{layers}, {{kind='global-average-pool'}}]");
        let definition = Definition::parse(&text, None).unwrap();
        let spec = ModelSpec::of(&ModelName::Own(Arc::new(definition))).on(4, [8, 8], 4);
        let architecture = Architecture::new(&spec).unwrap();
        let kind = |node: &Node| match node {
            Node::Norm { residual: Some(_), .. } => "norm+add",
            Node::AddNorm { .. } => "add+norm",
            node => node.kind(),
        };
        let relus = architecture.layers.iter().map(|l| l.relu).chain(architecture.norms.iter().map(|n| n.relu));
        (architecture.graph.nodes.iter().map(kind).collect::<Vec<_>>().join(" "), relus.filter(|relu| *relu).count())
    };
    let conv = "{kind='conv',name='c',outputs=4,kernel=3";
    for (layers, expected, relus) in [
        (format!("{conv}}},{{kind='relu'}}"), "layer global-average-pool", 1),
        (format!("{conv},bias=false,relu=true}}"), "layer relu global-average-pool", 0),
        (format!("{conv}}},{{kind='batch-norm',name='n'}},{{kind='relu'}}"), "layer batch-norm global-average-pool", 1),
        (
            format!("{conv}}},{{kind='batch-norm',name='n'}},{{kind='add',with='input'}}"),
            "layer norm+add global-average-pool",
            0,
        ),
        (
            format!("{conv}}},{{kind='batch-norm',name='n'}},{{kind='add',from='input',with='n',relu=true}}"),
            "layer norm+add global-average-pool",
            1,
        ),
        (
            format!("{conv}}},{{kind='add',with='input'}},{{kind='batch-norm',name='n',relu=true}}"),
            "layer add+norm global-average-pool",
            1,
        ),
        // The convolution's output has a ReLU behind it, whose sign is needed: the sum stands by itself.
        (
            format!("{conv},relu=true}},{{kind='add',with='input'}},{{kind='batch-norm',name='n'}}"),
            "layer add batch-norm global-average-pool",
            1,
        ),
        (format!("{conv}}},{{kind='add',with='input',relu=true}}"), "layer add relu global-average-pool", 0),
        // Read twice: nothing may take its place.
        (
            format!("{conv}}},{{kind='batch-norm',name='n'}},{{kind='relu'}},{{kind='add',with='n'}}"),
            "layer batch-norm relu add global-average-pool",
            0,
        ),
        (format!("{conv}}},{{kind='add',with='c'}}"), "layer add global-average-pool", 0),
    ] {
        assert_eq!(kinds(&layers), (expected.to_owned(), relus), "{layers}");
    }
}

#[test]
fn channels_stand_side_by_side() {
    let build = |layers: &str| {
        let text = format!("name = 'net'\nlayers = [{layers}]");
        let definition = Definition::parse(&text, None).unwrap();
        assert_eq!(Definition::parse(&definition.to_toml(), None).unwrap(), definition);
        let spec = ModelSpec::of(&ModelName::Own(Arc::new(definition))).on(3, [8, 8], 10);
        Architecture::new(&spec)
    };
    let a = "{kind='conv',name='a',outputs=2,kernel=3}";
    let b = "{kind='conv',name='b',from='input',outputs=5,kernel=3}";
    let built =
        build(&format!("{a},{b},{{kind='concat',with=['input','a'],relu=true}},{{kind='global-average-pool'}}"));
    let built = built.unwrap();
    assert!(matches!(&built.graph.nodes[2], Node::Concat { inputs, .. } if *inputs == [2, 0, 1]));
    let error =
        build(&format!("{a},{{kind='max-pool',size=2}},{{kind='concat',with='a'}},{{kind='global-average-pool'}}"));
    let error = error.unwrap_err().to_string();
    assert!(error.contains("concat needs images of one size but gets images of 2×4×4 and images of 2×8×8"), "{error}");
}

/// What is built in Rust is described so that it can be read again.
#[test]
fn built_networks_have_definitions() {
    let mut builder = Builder::images("mine", 3, [8, 8], 5);
    let x = builder.conv("a", Conv::new(4, 3).bias().relu(), builder.input()).unwrap();
    let y = builder.conv("b", Conv::new(4, 3).groups(2), x).unwrap();
    let y = builder.norm("n", y).unwrap();
    let y = builder.add(y, x).unwrap();
    let y = builder.dropout("drop", y).unwrap();
    let y = builder.depthwise("d", 3, 2, y).unwrap();
    let y = builder.relu(y).unwrap();
    let y = builder.flatten(y).unwrap();
    builder.linear("l", 5, false, y).unwrap();
    let built = builder.finish().unwrap();
    assert!(matches!(built.graph.nodes[2], Node::Norm { residual: Some(_), .. }));
    let text = String::from(built.name());
    let again: ModelName = text.parse().unwrap();
    assert_eq!(Architecture::new(&ModelSpec { name: again, ..built.spec.clone() }).unwrap(), built);

    for name in ["resnet-18", "8-5", "a b", ""] {
        let mut builder = Builder::features(name, 8, 5);
        builder.linear("l", 5, false, builder.input()).unwrap();
        assert!(builder.finish().is_err(), "{name}");
    }
    let mut builder = Builder::features("mine", 8, 5);
    let x = builder.linear("l", 5, false, builder.input()).unwrap();
    assert!(matches!(builder.conv("c", Conv::new(2, 3), x), Err(BuildError::NeedsImages { .. })));
    assert!(matches!(builder.linear("l", 5, false, x), Err(BuildError::Duplicate { .. })));
    assert!(matches!(builder.linear("a/b", 5, false, x), Err(BuildError::Name { .. })));
    assert!(matches!(
        builder.linear("m", usize::MAX, false, x),
        Err(BuildError::LargeNetwork { .. } | BuildError::LargeValue { .. })
    ));
    let mut builder = Builder::images("mine", 1, [4, 4], 5);
    assert!(builder.conv("c", Conv::new(2, 3).padding(usize::MAX), builder.input()).is_err());
    assert!(builder.conv("c", Conv::new(usize::MAX, 3), builder.input()).is_err());
}
