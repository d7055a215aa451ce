//! Runs that are killed, interrupted, damaged or without room, and resumed: they end as if nothing had happened.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;
use sparse_kernels::random::Key;
use trainer::checkpoint::Checkpoint;

/// Long enough to be killed in the middle; with topology updates, dropout, validation and a last batch that is not full.
const RUN: &str = "--model 784-400-200-10 --batch-size 250 --steps 180 --update-interval 20 --dropout 0.1 --val-fraction 0.1 \
    --optimizer adam --seed 3 --checkpoint-every 7";

/// The same of a convolutional network, with batch normalisation and pictures that are changed at random.
const CONV_RUN: &str = "--model wrn-10-1 --augment crop-flip --density 0.2 --batch-size 60 --steps 40 --update-interval 6 \
    --dropout 0.1 --lr 0.05 --seed 3 --checkpoint-every 3";

fn rigl(args: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rigl-under-test"));
    command.env_remove("RIGL_DATA_DIR").args(["train", "--json"]).args(args.split_whitespace());
    command
}

fn run(args: &str) -> Output {
    let output = rigl(args).output().unwrap();
    assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn start(args: &str) -> Child {
    rigl(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// The final checkpoint, the records without times, and those of the topology.
fn result(run: &Path) -> (Vec<u8>, Vec<Value>, String) {
    let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let record = |line: &str| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        let timed = ["seconds", "train_seconds", "samples_per_second", "peak_rss_bytes", "step_time_ns"];
        for key in timed.into_iter().chain(["dense_step_time_ns", "run_dir"]) {
            record.as_object_mut().unwrap().remove(key);
        }
        record
    };
    let topology = fs::read_to_string(run.join("topology.jsonl")).unwrap();
    // The start, and each epoch that has a record.
    let epochs = metrics.lines().filter(|line| line.contains("\"epoch\"")).count();
    assert_eq!(topology.lines().count(), 1 + epochs);
    (fs::read(run.join("checkpoint.safetensors")).unwrap(), metrics.lines().map(record).collect(), topology)
}

/// Newest first.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(run.join("checkpoints"))
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "safetensors"));
    paths.sort();
    paths.reverse();
    paths
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// Starts a run and waits until it has saved something.
fn start_and_wait(args: &str, out: &Path) -> Child {
    let mut child = start(args);
    let start = Instant::now();
    while checkpoints(out).is_empty() {
        assert!(child.try_wait().unwrap().is_none(), "the run has ended");
        assert!(start.elapsed() < Duration::from_secs(60), "the run saves nothing");
        sleep(Duration::from_millis(1));
    }
    child
}

/// Kills each run twice. `RIGL_KILLS=20` kills that many runs for each number of threads.
#[test]
fn killed_runs_end_in_the_same_bytes() {
    kill_and_resume(RUN);
}

#[test]
fn killed_runs_of_convolutional_networks_end_in_the_same_bytes() {
    kill_and_resume(CONV_RUN);
}

#[test]
fn killed_runs_in_half_precision_end_in_the_same_bytes() {
    kill_and_resume(&format!("{CONV_RUN} --precision bf16 --recompute"));
}

/// Activations that are computed again are the same; those in 16 bits are not, and a run takes them up or lets them go only if asked
/// to.
#[test]
fn a_resumed_run_may_hold_activations_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let settings = CONV_RUN.replace("--steps 40", "--steps 12");
    let out = |name: &str| folder.path().join(name);
    run(&format!("{settings} --out {}", out("whole").display()));
    run(&format!("{settings} --recompute --out {}", out("again").display()));
    let expected = result(&out("whole"));
    assert!(result(&out("again")) == expected, "computed again: another result");

    let begun = out("begun");
    let child = start_and_wait(&format!("{CONV_RUN} --out {}", begun.display()), &begun);
    signal(&child, "-INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    let precision = |run: &Path| -> Value {
        let newest = checkpoints(run).remove(0);
        Checkpoint::load(&newest).unwrap().metadata["run"]["config"]["precision"].clone()
    };
    assert_eq!(precision(&begun), "f32");
    let refused = |args: &str, word: &str| {
        let refused = rigl(args).output().unwrap();
        let message = String::from_utf8(refused.stderr).unwrap();
        assert!(refused.status.code() == Some(2) && message.contains(word), "{args}: {message}");
    };
    refused(&format!("--resume {} --lr 0.1 --precision bf16", begun.display()), "lr");
    refused("--model lenet-5 --recompute --steps 1", "a network with normalisations or GELU");
    // From its first moment on the run is one of that precision, however it ends; all else was meant for this time.
    let mut child = start(&format!("--resume {} --precision bf16 --threads 1", begun.display()));
    let config = || fs::read_to_string(begun.join("config.toml")).unwrap();
    let start_time = Instant::now();
    while !config().contains("precision = \"bf16\"") {
        assert!(start_time.elapsed() < Duration::from_secs(60), "{}", config());
        sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(precision(&begun), "bf16");
    assert!(!config().contains("threads = 1"), "{}", config());
    let done = run(&format!("--resume {}", begun.display()));
    assert!(String::from_utf8(done.stdout).unwrap().contains("\"event\":\"done\""));
    assert_eq!(precision(&begun), "bf16");
}

fn kill_and_resume(settings: &str) {
    let folder = tempfile::tempdir().unwrap();
    let kills = std::env::var("RIGL_KILLS").map_or(2, |count| count.parse().unwrap());
    for threads in [1, 2] {
        let whole = folder.path().join(format!("whole-{threads}"));
        let start_time = Instant::now();
        run(&format!("{settings} --threads {threads} --out {}", whole.display()));
        // The end is spent on measuring the step.
        let duration = 0.8 * start_time.elapsed().as_secs_f64();
        let expected = result(&whole);
        for case in 0..kills {
            let out = folder.path().join(format!("killed-{threads}-{case}"));
            let mut args = format!("{settings} --threads {threads} --out {}", out.display());
            let mut seen = String::new();
            for kill in 0..2 {
                let mut child = start(&args);
                let moment = duration * f64::from(Key::new(case).with(kill).uniform(threads));
                sleep(Duration::from_secs_f64(moment));
                child.kill().unwrap();
                child.wait().unwrap();
                // Before the run has written its settings there is nothing to go on with: the same command starts it.
                if out.join("config.toml").exists() {
                    args = format!("--resume {} --threads {}", out.display(), 3 - threads);
                }
                let newest = checkpoints(&out).first().map(|path| path.file_name().unwrap().to_owned());
                seen += &format!(" at {:.0} ms ({newest:?})", 1e3 * moment);
            }
            run(&args);
            assert!(result(&out) == expected, "{threads} threads, killed{seen}: another result");
            println!("{threads} threads, killed{seen}: the same {} bytes", expected.0.len());
        }
    }
}

#[test]
fn interrupted_runs_save_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    run(&format!("{RUN} --out {}", whole.display()));
    // A press of Ctrl-C that arrives twice, as wrappers pass it on, is one press.
    for (name, signals) in [("-INT", 1), ("-TERM", 1), ("-INT", 2)] {
        let out = folder.path().join(format!("interrupted{name}{signals}"));
        let child = start_and_wait(&format!("{RUN} --out {}", out.display()), &out);
        (0..signals).for_each(|_| signal(&child, name));
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(130), "{message}");
        let newest = checkpoints(&out).remove(0);
        let saved = format!("saved {}", newest.display());
        assert!(message.contains(&saved) && message.contains("rigl train --resume"), "{message}");
        Checkpoint::load(&newest).unwrap();
        run(&format!("--resume {}", out.display()));
        assert!(result(&out) == result(&whole), "{name} {signals}");
    }
}

#[test]
fn runs_in_blocks_are_interrupted_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, out] = ["whole", "interrupted"].map(|name| folder.path().join(name));
    let args = format!("{RUN} --format bsr8x4");
    run(&format!("{args} --out {}", whole.display()));
    let child = start_and_wait(&format!("{args} --threads 2 --out {}", out.display()), &out);
    signal(&child, "-INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    run(&format!("--resume {} --threads 1", out.display()));
    assert!(result(&out) == result(&whole));
}

/// While the step is measured at the end, nothing looks for a first interrupt; a second one stops at once.
#[test]
fn a_second_interrupt_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // Some dense steps of this network take a second.
    let mut child = start(&format!("--steps 3 --model 784-4000-4000-10 --batch-size 256 --out {}", out.display()));
    while !out.join("checkpoint.safetensors").exists() {
        assert!(child.try_wait().unwrap().is_none(), "the run has ended");
        sleep(Duration::from_millis(1));
    }
    sleep(Duration::from_millis(100));
    signal(&child, "-INT");
    sleep(Duration::from_millis(400));
    signal(&child, "-INT");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!fs::read_to_string(out.join("metrics.jsonl")).unwrap().contains("\"done\""));
    run(&format!("--resume {}", out.display()));
    assert!(fs::read_to_string(out.join("metrics.jsonl")).unwrap().contains("\"done\""));
}

#[test]
fn a_finished_run_is_only_reported_again() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    run(&format!("--steps 30 --out {}", out.display()));
    let before = result(&out);
    run(&format!("--resume {}", out.display()));
    assert!(result(&out) == before);
}

/// 200 cuts and 200 flipped bytes: an error, or the same state.
#[test]
fn damage_is_found_and_the_checkpoint_before_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let args = "--model 784-30-10 --steps 60 --update-interval 10 --checkpoint-every 20 --keep-checkpoints 3";
    run(&format!("{args} --out {}", whole.display()));
    let good = fs::read(&checkpoints(&whole)[0]).unwrap();
    let state = Checkpoint::from_bytes(&good).unwrap();
    let key = Key::new(1);
    let mut harmless = 0;
    for case in 0..200 {
        let cut = key.with_name("cut").bits(case) as usize % good.len();
        assert!(Checkpoint::from_bytes(&good[..cut]).is_err(), "cut to {cut} of {} bytes", good.len());
        let mut flipped = good.clone();
        // Every second one in the header, which is small.
        let within = if case % 2 == 0 { good.len() } else { 2000 };
        let (at, bit) = (key.with_name("at").bits(case) as usize % within, key.with_name("bit").bits(case) % 8);
        flipped[at] ^= 1 << bit;
        match Checkpoint::from_bytes(&flipped) {
            Ok(loaded) => {
                harmless += 1;
                assert!(loaded == state, "bit {bit} of byte {at} makes another state");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    println!("200 cuts and 200 flips: {harmless} of the flips change nothing, all others are errors");

    // A run whose newest checkpoints are damaged goes on from the one before, and says so.
    for (case, damage) in [(0, 1), (1, 2), (2, 3)] {
        let out = folder.path().join(format!("damaged-{case}"));
        fs::create_dir_all(out.join("checkpoints")).unwrap();
        for file in ["config.toml", "metrics.jsonl", "topology.jsonl"] {
            fs::copy(whole.join(file), out.join(file)).unwrap();
        }
        for path in checkpoints(&whole) {
            fs::copy(&path, out.join("checkpoints").join(path.file_name().unwrap())).unwrap();
        }
        let paths = checkpoints(&out);
        for path in &paths[..damage.min(paths.len())] {
            let mut bytes = fs::read(path).unwrap();
            let middle = bytes.len() / 2;
            match case {
                0 => bytes.truncate(middle),
                _ => bytes[middle] ^= 0x40,
            }
            fs::write(path, bytes).unwrap();
        }
        let output = run(&format!("--resume {}", out.display()));
        let message = String::from_utf8(output.stderr).unwrap();
        let fallen_back = match paths.get(damage) {
            Some(path) => format!("falling back to {}", path.display()),
            None => "no checkpoint is intact: starting over".to_owned(),
        };
        assert!(message.contains(&paths[0].display().to_string()) && message.contains(&fallen_back), "{message}");
        assert!(result(&out) == result(&whole), "{damage} damaged");
    }
}

/// Results that nobody can read are no reason to lose the state behind them.
#[test]
#[cfg(target_os = "linux")]
fn a_full_standard_output_leaves_the_state_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (out, whole) = (folder.path().join("run"), folder.path().join("whole"));
    let args = "--model 784-20-10 --epochs 2";
    run(&format!("{args} --out {}", whole.display()));
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = rigl(&format!("{args} --out {}", out.display())).stdout(full).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains("saved after step 120") && message.contains("standard output"), "{message}");
    assert_eq!(checkpoints(&out).len(), 1);
    run(&format!("--resume {}", out.display()));
    assert!(result(&out) == result(&whole));
}

/// The real command where the system allows no file as large as a checkpoint.
#[test]
#[cfg(unix)]
fn without_room_the_last_good_checkpoint_stays() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    run(&format!("{RUN} --out {}", whole.display()));
    let limited = |args: &str| {
        let program = env!("CARGO_BIN_EXE_rigl-under-test");
        // In units of 1024 bytes.
        let script = format!("ulimit -f 60; exec {program} train --json {args}");
        let output = Command::new("bash").args(["-c", &script]).env_remove("RIGL_DATA_DIR").output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stderr).unwrap()
    };
    let out = folder.path().join("full");
    let message = limited(&format!("{RUN} --out {}", out.display()));
    for part in ["File too large", "there is no checkpoint yet", "step 7", "--resume"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
    assert!(checkpoints(&out).is_empty());

    let child = start_and_wait(&format!("--resume {}", out.display()), &out);
    signal(&child, "-INT");
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    let newest = checkpoints(&out).remove(0);
    let before = fs::read(&newest).unwrap();
    let message = limited(&format!("--resume {}", out.display()));
    let last_good = format!("the last good state is {}", newest.display());
    assert!(message.contains("File too large") && message.contains(&last_good), "{message}");
    assert_eq!(fs::read(&newest).unwrap(), before);
    let leftovers: Vec<_> = fs::read_dir(out.join("checkpoints")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(leftovers.iter().all(|name| !name.to_string_lossy().ends_with(".tmp")), "{leftovers:?}");

    run(&format!("--resume {}", out.display()));
    assert!(result(&out) == result(&whole));
}

#[test]
fn a_run_is_not_gone_on_with_as_another() {
    let folder = tempfile::tempdir().unwrap();
    let make = |name: &str, args: &str| {
        let out = folder.path().join(name);
        run(&format!("--steps 4 --checkpoint-every 2 {args} --out {}", out.display()));
        fs::remove_file(out.join("checkpoint.safetensors")).unwrap();
        out
    };
    let small = make("small", "--model 784-30-10");
    let large = make("large", "--model 784-40-10");
    let adam = make("adam", "--model 784-30-10 --optimizer adam");
    let refused = |args: String, code: i32, parts: &[&str]| {
        let output = rigl(&args).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args}: {message}");
        assert!(!message.contains("panicked") && output.stdout.is_empty(), "{args}: {message}");
        parts.iter().for_each(|part| assert!(message.contains(part), "{args}: no {part:?} in {message}"));
    };
    let resume = |run: &Path| format!("--resume {}", run.display());
    let config = small.join("config.toml");
    let config = config.to_str().unwrap();
    refused(format!("{} --density 0.5", resume(&small)), 2, &["--density", "cannot be changed", config]);
    refused(format!("{} --format bsr4x4", resume(&small)), 2, &["--format", "cannot be changed"]);
    refused(format!("{} --out b", resume(&small)), 2, &["--out", "cannot be changed"]);
    refused(format!("{} --config a.toml", resume(&small)), 2, &["--resume", "--config"]);
    refused(resume(&folder.path().join("none")), 2, &["none", "holds no run", "config.toml"]);
    // A checkpoint of another model, and one of other settings.
    fs::copy(&checkpoints(&large)[0], &checkpoints(&small)[0]).unwrap();
    refused(resume(&small), 2, &["step-00000002", "the model is 784-40-10, expected 784-30-10"]);
    fs::copy(&checkpoints(&adam)[0], &checkpoints(&small)[0]).unwrap();
    refused(resume(&small), 2, &["step-00000002", "the setting lr is 0.001, expected 0.1"]);
    // The same settings on other data.
    let data = |name: &str, pixel: u8| {
        let dir = folder.path().join(name);
        fs::create_dir(&dir).unwrap();
        for (part, samples) in [("train", 40u32), ("t10k", 10)] {
            let header = |magic: u32, sizes: &[u32]| -> Vec<u8> {
                [magic].iter().chain(sizes).flat_map(|word| word.to_be_bytes()).collect()
            };
            let mut images = header(0x803, &[samples, 28, 28]);
            images.extend((0..samples * 784).map(|i| if i % 784 == 3 { pixel } else { (i % 251) as u8 }));
            let mut labels = header(0x801, &[samples]);
            labels.extend((0..samples).map(|i| (i % 10) as u8));
            fs::write(dir.join(format!("{part}-images-idx3-ubyte")), images).unwrap();
            fs::write(dir.join(format!("{part}-labels-idx1-ubyte")), labels).unwrap();
        }
        dir.display().to_string()
    };
    let (ours, others) = (data("ours", 1), data("others", 2));
    let moved = make("moved", &format!("--model 784-30-10 --data mnist --data-dir {ours}"));
    refused(format!("{} --data-dir {others}", resume(&moved)), 2, &["step-00000002", "samples of mnist"]);
    refused(format!("{} --data-dir {others}", resume(&large)), 2, &["--data-dir", "no effect"]);
    // A setting changed behind the run's back, a value of a wrong type, an unknown key.
    let text = fs::read_to_string(adam.join("config.toml")).unwrap();
    for (from, to, parts) in [
        ("steps = 4", "steps = 400", ["the setting steps is 4, expected 400", "step-00000002"]),
        ("seed = 0", "seed = \"zero\"", ["config.toml", "expected u64"]),
        ("seed = 0", "sead = 0", ["config.toml", "sead"]),
    ] {
        assert!(text.contains(from));
        fs::write(adam.join("config.toml"), text.replace(from, to)).unwrap();
        refused(resume(&adam), 2, &parts);
    }
}
