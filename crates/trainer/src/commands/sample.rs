//! `rigl sample`.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::eval::EVALUATION_BATCH;
use super::values::parse_count;
use crate::data::InputForm;
use crate::data::text::{Alphabet, character_text};
use crate::device::{ComputeDevice, Device, OnDevice, available_threads, on_device};
use crate::models::{Network, StoredModel};
use crate::report::{print_part, print_record, print_text};
use crate::run_checkpoints::{Which, load_model_of};
use crate::sample::{Choice, Continuation, Decoder};
use crate::training::{Evaluator, Loss};

const SAMPLE_EXAMPLES: &str = "\
Examples:
  rigl sample runs/1
      500 symbols from a model of text
  rigl sample runs/1 --prompt \"ROMEO:\" --temperature 0.8 --length 2000
      continues a prompt, with fewer surprises
  rigl sample runs/1 --top-k 20 --seed 7
      another text, without unlikely symbols
  rigl sample runs/1 --prompt \"To be\" --temperature 0 --json
      always the most likely symbol, as a JSON record";

/// `rigl sample`.
#[derive(Debug, Args)]
#[command(after_long_help = SAMPLE_EXAMPLES)]
pub struct SampleArgs {
    /// A run folder, a checkpoint or a model file, of a model that was trained on a text
    pub model: PathBuf,
    /// Which checkpoint of a run folder
    #[arg(long, value_enum, default_value_t = Which::Newest)]
    pub which: Which,
    /// Text to continue; it is printed first [default: none; the model starts a new line]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Below 1 favours likely symbols, above 1 unlikely ones; 0 always takes the most likely symbol
    #[arg(long, value_name = "T", default_value = "1", value_parser = parse_temperature)]
    pub temperature: f64,
    /// Sample from this many of the most likely symbols [default: all]
    #[arg(long, value_name = "K", value_parser = parse_count)]
    pub top_k: Option<usize>,
    /// Symbols to generate after the prompt
    #[arg(long, value_name = "N", default_value = "500", value_parser = parse_count)]
    pub length: usize,
    /// Random seed; a seed gives the same text on any number of threads
    #[arg(long, value_name = "N", default_value = "0")]
    pub seed: u64,
    /// Threads [default: one per core]
    #[arg(long, value_name = "N", value_parser = parse_count)]
    pub threads: Option<usize>,
    /// Device to compute on: cpu, gpu (the best one) or gpu:N; see `rigl devices`
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: Device,
    /// Print only JSON on standard output, one object at the end
    #[arg(long)]
    pub json: bool,
}

fn parse_temperature(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(temperature) if temperature >= 0.0 && temperature.is_finite() => Ok(temperature),
        _ => Err("it must be a finite number of at least 0".to_owned()),
    }
}

/// The record of a text.
#[derive(Debug, Serialize)]
struct SampleRecord<'a> {
    event: &'static str,
    prompt: &'a str,
    /// What follows the prompt.
    text: &'a str,
    /// Symbols that were chosen.
    symbols: usize,
    temperature: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<usize>,
    seed: u64,
    model: String,
    checkpoint: &'a Path,
}

/// Runs the command.
///
/// # Errors
/// If the model cannot be read or is of no text, the prompt has a symbol that it does not know, or its outputs are no numbers.
pub fn run(args: &SampleArgs) -> crate::Result<()> {
    let (model, path) = load_model_of(&args.model, args.which)?;
    let architecture = model.architecture()?;
    let shown = path.display();
    if !architecture.reads_tokens() {
        let name = architecture.name();
        return Err(format!(
            "{shown}: {name} is no model of text; train one with rigl train --model gru-512; rigl predict uses others"
        )
        .into());
    }
    let Some(alphabet) = model.input.as_ref().and_then(|input| input.alphabet.clone()) else {
        return Err(format!("{shown}: does not say what its symbols are; sample from a model trained here").into());
    };
    let prompt = prompt_tokens(args.prompt.as_deref(), &alphabet)?;
    let length = architecture.spec.sequence.as_ref().map_or(1, |sequence| sequence.length);
    let threads = args.threads.unwrap_or_else(available_threads);
    on_device(args.device, threads, Sampling { args, path: &path, model, alphabet, prompt, length })
}

/// The tokens that a model begins with; without a prompt, the end of a line.
fn prompt_tokens(prompt: Option<&str>, alphabet: &Alphabet) -> crate::Result<Vec<u16>> {
    let prompt = match prompt {
        Some("") | None => "\n",
        Some(prompt) => prompt,
    };
    alphabet.tokens(prompt).map_err(|character| {
        let known = match alphabet {
            Alphabet::Bytes => String::new(),
            Alphabet::Characters(characters) => characters.iter().collect(),
        };
        let (character, count) = (character_text(character), alphabet.len());
        format!("--prompt: unknown character {character}; the model was trained on these {count}: {known:?}").into()
    })
}

/// A text from a model on a device.
struct Sampling<'a> {
    args: &'a SampleArgs,
    path: &'a Path,
    model: StoredModel,
    alphabet: Alphabet,
    prompt: Vec<u16>,
    length: usize,
}

impl OnDevice for Sampling<'_> {
    type Output = ();

    fn run<B: ComputeDevice>(self, backend: &B) -> crate::Result<()> {
        let Self { args, path, model, alphabet, prompt, length } = self;
        let name = model.name().to_string();
        let network = Network::from_stored(backend, model, EVALUATION_BATCH)?;
        let InputForm::Tokens { order, strip } = network.body.input_form(1) else {
            unreachable!("the architecture reads tokens")
        };
        let evaluator = Evaluator::new(backend, network, Loss::default());
        let mut continuation = Continuation::new(evaluator, order, strip, length);
        let choice = Choice { temperature: args.temperature, top_k: args.top_k, seed: args.seed };
        let mut decoder = Decoder::new(alphabet);
        let mut text = String::new();
        let mut print = |part: String| -> crate::Result<()> {
            if !args.json {
                print_part(&part)?;
            }
            text += &part;
            Ok(())
        };
        if let (Some(prompt), false) = (&args.prompt, args.json) {
            print_part(prompt)?;
        }
        let mut outputs = backend.install(|| continuation.read(&prompt).map(<[f32]>::to_vec))?;
        for place in 0..args.length as u64 {
            let Some(symbol) = choice.symbol(&outputs, place) else {
                let path = path.display();
                return Err(format!("{path}: the outputs are not finite: some weights are NaN or far too large").into());
            };
            print(decoder.push(symbol as u16))?;
            if place + 1 < args.length as u64 {
                outputs.clear();
                backend.install(|| continuation.read(&[symbol as u16]).map(|next| outputs.extend_from_slice(next)))?;
            }
        }
        print(decoder.finish())?;
        if args.json {
            return Ok(print_record(&SampleRecord {
                event: "sample",
                prompt: args.prompt.as_deref().unwrap_or_default(),
                text: &text,
                symbols: args.length,
                temperature: args.temperature,
                top_k: args.top_k,
                seed: args.seed,
                model: name,
                checkpoint: path,
            })?);
        }
        Ok(print_text("")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_are_of_the_alphabet() {
        let alphabet = Alphabet::Characters(['\n', 'a', 'b'].into());
        assert_eq!(prompt_tokens(Some("ab"), &alphabet).unwrap(), [1, 2]);
        for none in [None, Some("")] {
            assert_eq!(prompt_tokens(none, &alphabet).unwrap(), [0]);
        }
        let message = prompt_tokens(Some("aé"), &alphabet).unwrap_err().to_string();
        assert_eq!(message, "--prompt: unknown character 'é' (U+00E9); the model was trained on these 3: \"\\nab\"");
        assert_eq!(prompt_tokens(Some("é"), &Alphabet::Bytes).unwrap(), [0xc3, 0xa9]);
        assert_eq!(parse_temperature("0"), Ok(0.0));
        assert!(["-1", "inf", "nan", "hot"].iter().all(|text| parse_temperature(text).is_err()));
    }
}
