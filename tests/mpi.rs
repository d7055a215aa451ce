//! Runs of several processes, by the MPI library that is installed: `cargo test --release -p rigl-tests --features mpi --test mpi`.
//! `RIGL_KILLS=20` kills that many runs.

mod pictures;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use pictures::write_pictures;
use serde_json::Value;
use sparse_kernels::random::Key;

/// With topology updates, dropout, validation and a last batch that is not full.
const RUN: &str = "--model 784-200-100-10 --batch-size 250 --steps 90 --update-interval 10 --dropout 0.1 --val-fraction 0.1 \
    --optimizer adam --seed 3 --checkpoint-every 7 --shards 8";

const PROGRAM: &str = env!("CARGO_BIN_EXE_rigl-under-test");

/// A command that may start more processes than there are cores, as root, as in a container.
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("OMPI_ALLOW_RUN_AS_ROOT", "1").env("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1").env_remove("RIGL_DATA_DIR");
    command
}

/// `mpirun`, whose arguments go on with the number of ranks.
fn mpirun() -> Command {
    let mut command = command("mpirun");
    command.args(["--oversubscribe", "--bind-to", "none", "-n"]);
    command
}

/// A run of so many processes, or of one without MPI.
fn rigl(ranks: usize, args: &str) -> Command {
    let mut command = if ranks == 1 { command(PROGRAM) } else { mpirun() };
    if ranks > 1 {
        command.args([&ranks.to_string(), PROGRAM]);
    }
    command.args(["train", "--json"]).args(args.split_whitespace());
    command
}

fn run(ranks: usize, args: &str) -> Output {
    let output = rigl(ranks, args).output().unwrap();
    assert!(output.status.success(), "{ranks} ranks, {args}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn start(ranks: usize, args: &str) -> Child {
    rigl(ranks, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn last_record(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn checkpoint(run: &Path) -> Vec<u8> {
    fs::read(run.join("checkpoint.safetensors")).unwrap()
}

fn has_saved(run: &Path) -> bool {
    fs::read_dir(run.join("checkpoints")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Starts a run and waits until it has saved something.
fn start_and_wait(ranks: usize, args: &str, out: &Path) -> Child {
    let mut child = start(ranks, args);
    while !has_saved(out) {
        assert!(child.try_wait().unwrap().is_none(), "the run has ended");
        sleep(Duration::from_millis(5));
    }
    child
}

#[test]
fn any_number_of_ranks_and_threads_makes_the_same_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    for (i, args) in [
        "--model lenet-300-100 --batch-size 256 --steps 60 --update-interval 10",
        "--model wrn-10-1 --density 0.2 --batch-size 32 --steps 12 --update-interval 4 --augment crop-flip --dropout 0.1",
        "--model wrn-10-1 --method snfs --density 0.2 --batch-size 32 --steps 8 --update-interval 3",
        "--model wrn-10-1 --density 0.2 --batch-size 32 --steps 8 --update-interval 3 --precision bf16 --recompute",
        "--model wrn-10-1 --method gse --density 0.2 --batch-size 32 --steps 8 --update-interval 3",
        "--model 784-256-128-10 --format bsr8x8 --batch-size 256 --steps 40 --update-interval 8",
        "--model gru-64 --batch-size 16 --sequence-length 32 --steps 12 --update-interval 4",
    ]
    .into_iter()
    .enumerate()
    {
        let mut first: Option<Vec<u8>> = None;
        for ranks in [1, 2, 3, 4] {
            for threads in [1, 2] {
                let out = folder.path().join(format!("{i}-{ranks}-{threads}"));
                run(ranks, &format!("{args} --shards 8 --seed 5 --threads {threads} --out {}", out.display()));
                let bytes = checkpoint(&out);
                let first = first.get_or_insert_with(|| bytes.clone());
                assert!(*first == bytes, "{args}: {ranks} ranks of {threads} threads make another checkpoint");
            }
        }
    }
}

/// Ranks on GPUs, or on one, as here.
#[test]
fn ranks_on_gpus_make_the_same_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let mut first: Option<Vec<u8>> = None;
    for ranks in [1, 2, 3] {
        let out = folder.path().join(ranks.to_string());
        let args =
            "--device gpu --model 784-100-10 --batch-size 64 --steps 12 --update-interval 4 --shards 4 --dropout 0.1";
        let output = rigl(ranks, &format!("{args} --out {}", out.display())).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("no GPU") && std::env::var_os("RIGL_REQUIRE_GPU").is_none() {
            eprintln!("not run: {said}");
            return;
        }
        assert!(output.status.success(), "{said}");
        let bytes = checkpoint(&out);
        assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{ranks} ranks");
    }
}

/// Each rank reads the pictures of its shards; one that is broken is replaced as on one rank, and counted by all.
#[test]
fn ranks_read_their_pictures() {
    let folder = tempfile::tempdir().unwrap();
    let pictures = folder.path().join("pictures");
    write_pictures(&pictures);
    let mut first: Option<Vec<u8>> = None;
    for ranks in [1, 2, 3] {
        let out = folder.path().join(ranks.to_string());
        let args = format!(
            "--data image-folder --data-dir {} --image-size 8 --model 192-8-3 --density 0.5 --batch-size 5 --steps 15 \
             --update-interval 3 --shards 3 --loader-threads 2 --threads 1 --out {}",
            pictures.display(),
            out.display()
        );
        assert_eq!(last_record(&run(ranks, &args))["corrupt_images"], 1, "{ranks} ranks");
        let bytes = checkpoint(&out);
        assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{ranks} ranks");
    }
}

#[test]
fn killed_runs_go_on_with_another_number_of_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let kills = std::env::var("RIGL_KILLS").map_or(2, |count| count.parse().unwrap());
    let whole = folder.path().join("whole");
    let start_time = Instant::now();
    run(2, &format!("{RUN} --threads 1 --out {}", whole.display()));
    let duration = 0.8 * start_time.elapsed().as_secs_f64();
    let expected = checkpoint(&whole);
    for case in 0..kills {
        let out = folder.path().join(format!("killed-{case}"));
        let mut args = format!("{RUN} --threads 1 --out {}", out.display());
        let mut seen = vec![];
        for turn in 0..2u64 {
            let key = Key::new(case).with(turn);
            let ranks = 1 + key.below(0, 4) as usize;
            let mut child = start(ranks, &args);
            let moment = duration * f64::from(key.uniform(1));
            sleep(Duration::from_secs_f64(moment));
            kill_one(&child, ranks, key);
            let ended = ends_within(&mut child, Duration::from_secs(20));
            seen.push(format!("{ranks} ranks at {:.0} ms, ended in {:.1} s", 1e3 * moment, ended.as_secs_f64()));
            if out.join("config.toml").exists() {
                args = format!("--resume {}", out.display());
            }
        }
        run(1 + Key::new(case).below(9, 4) as usize, &args);
        assert!(checkpoint(&out) == expected, "killed: {seen:?}: another result");
        println!("killed: {}: the same {} bytes", seen.join("; "), expected.len());
    }
}

/// Kills one process of a run for good; the others are not told.
fn kill_one(child: &Child, ranks: usize, key: Key) {
    let victims = match ranks {
        1 => vec![child.id()],
        _ => children(child.id()),
    };
    if let Some(victim) = victims.get(key.below(5, victims.len().max(1) as u64) as usize) {
        let _ = Command::new("kill").args(["-KILL", &victim.to_string()]).status();
    }
}

fn children(of: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

fn ends_within(child: &mut Child, limit: Duration) -> Duration {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < limit, "still there after {limit:?}");
        sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// One rank writes the events, also when a run is resumed.
#[test]
fn one_rank_writes_events() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let events = || -> Vec<_> {
        let entries = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap());
        let events = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("events"));
        events.map(|entry| entry.metadata().unwrap().len()).collect()
    };
    run(
        3,
        &format!(
            "--model 784-20-10 --steps 240 --batch-size 100 --log tensorboard --threads 1 --out {}",
            out.display()
        ),
    );
    let first = events();
    run(2, &format!("--resume {} --extend --steps 360", out.display()));
    let both = events();
    // What was said at the end goes, epochs stay.
    assert!(first.len() == 1 && both.len() == 2 && both.iter().all(|&len| len > first[0] / 2), "{first:?} {both:?}");
}

#[test]
fn an_interrupt_saves_and_stops_all() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let args = format!("{} --threads 1 --out {}", RUN.replace("--steps 90", "--steps 100000"), out.display());
    let mut child = start_and_wait(3, &args, &out);
    // One rank is asked, and all stop; as the first rank says.
    let rank = children(child.id())[1];
    assert!(Command::new("kill").args(["-INT", &rank.to_string()]).status().unwrap().success());
    ends_within(&mut child, Duration::from_secs(20));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(said.matches("interrupted after step").count(), 1, "{said}");
    assert_eq!(output.status.code(), Some(130), "{said}");
}

#[test]
fn what_is_wrong_is_said_once() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    for (args, code, parts) in [
        ("--lr -1".to_owned(), 2, &["error: ", "--lr", "-1"][..]),
        ("--shards 2".to_owned(), 2, &["3 ranks for 2 shards"]),
        ("--data mnist --data-dir /nowhere".to_owned(), 2, &["/nowhere"]),
        (format!("--model 784-20-10 --lr 1e30 --steps 50 --out {}", out.display()), 1, &["the training loss is"]),
    ] {
        let start = Instant::now();
        let output = rigl(3, &args).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{args}: {said}");
        assert_eq!(said.matches("error: ").count(), 1, "{args}: {said}");
        assert!(start.elapsed() < Duration::from_secs(20), "{args}");
    }
}

/// A rank whose folder cannot be written ends all.
#[test]
fn a_rank_that_fails_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let args = format!("{} --threads 1 --out {}", RUN.replace("--steps 90", "--steps 100000"), out.display());
    let mut child = start_and_wait(2, &args, &out);
    fs::remove_dir_all(&out).unwrap();
    ends_within(&mut child, Duration::from_secs(20));
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("rank 0: error: cannot save the run"), "{said}");
}

/// As on a full disk: rank 0 may write files of 64 blocks only, which a checkpoint exceeds.
#[test]
fn a_full_disk_of_one_rank_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let args = format!("train --json {RUN} --threads 1 --out {}", folder.path().join("run").display());
    let mut command = mpirun();
    command.args(["1", "sh", "-c"]).arg(format!("ulimit -f 64; exec {PROGRAM} {args}"));
    command.args([":", "-n", "2", PROGRAM]).args(args.split_whitespace());
    let start = Instant::now();
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("rank 0: error: cannot save the run") && said.matches("error: ").count() == 1, "{said}");
    println!("a full disk: ended after {:.1} s", start.elapsed().as_secs_f64());
}

/// A stopped process says nothing, and its connection stays.
#[test]
fn a_silent_rank_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let endless = RUN.replace("--steps 90", "--steps 100000");
    let mut child = start_and_wait(3, &format!("{endless} --threads 1 --rank-timeout 2 --out {}", out.display()), &out);
    let silent = children(child.id())[2].to_string();
    assert!(Command::new("kill").args(["-STOP", &silent]).status().unwrap().success());
    let ended = ends_within(&mut child, Duration::from_secs(30));
    println!("a silent rank: ended after {:.1} s", ended.as_secs_f64());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("waited 2 s for the other ranks and gave up"), "{said}");
    let _ = Command::new("kill").args(["-KILL", &silent]).status();
}

/// Numbers that overflow in one shard end the run on all ranks.
#[test]
fn what_diverges_on_one_rank_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let table = folder.path().join("table.csv");
    let row = |i: usize| {
        format!("{},{},{}\n", i % 7, if i % 50 == 37 { "3e38".to_owned() } else { (i % 5).to_string() }, i % 2)
    };
    let rows: String = (0..400).map(row).collect();
    fs::write(&table, format!("a,b,kind\n{rows}")).unwrap();
    let args = format!(
        "--data table --table {} --target kind --normalize none --model mlp-20 --method dense --batch-size 400 --steps 50 --out {}",
        table.display(),
        folder.path().join("run").display()
    );
    let start = Instant::now();
    let output = rigl(3, &args).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the training loss is") && said.matches("error: ").count() == 1, "{said}");
    println!("diverged: ended after {:.1} s", start.elapsed().as_secs_f64());
}

/// Each rank reads its own copy of the data, and all copies must be the same.
#[test]
fn ranks_need_the_same_data() {
    let folder = tempfile::tempdir().unwrap();
    let text = |name: &str, line: &str| {
        let path = folder.path().join(name);
        fs::write(&path, line.repeat(500)).unwrap();
        format!("--data text --text {} --model gru-16 --sequence-length 8 --steps 4 --threads 1", path.display())
    };
    let copies = [text("one.txt", "to be or not to be\n"), text("other.txt", "to be or not to bee\n")];
    let missing = "--data text --text /nowhere.txt --model gru-16";
    for (of_second, code, part) in [(&*copies[1], 2, "of rank 2 differ"), (missing, 1, "rank 2: /nowhere.txt")] {
        let start = Instant::now();
        let mut command = rigl(2, &copies[0]);
        command.args(["--out", &folder.path().join("run").display().to_string()]);
        command.args([":", "-n", "1", PROGRAM, "train"]).args(of_second.split_whitespace());
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(part) && said.matches("error: ").count() == 1, "{said}");
        println!("{}: {:.1} s", said.lines().next().unwrap(), start.elapsed().as_secs_f64());
    }
}

/// As the library sums: near to the tree, on any number of ranks.
#[test]
fn a_fast_reduction_learns_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let loss = |ranks: usize, args: &str| {
        let out = folder.path().join(ranks.to_string());
        let args =
            format!("--model lenet-300-100 --batch-size 250 --steps 60 --threads 1 {args} --out {}", out.display());
        last_record(&run(ranks, &args))["test_loss"].as_f64().unwrap()
    };
    let expected = loss(1, "--shards 4");
    for ranks in [2, 4] {
        let got = loss(ranks, "--reduction fast");
        assert!((got / expected - 1.0).abs() < 0.02, "{ranks} ranks: {got}, expected about {expected}");
    }
    let output = rigl(1, "--reduction fast").output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("mpirun") && output.status.code() == Some(2));
}

/// Commands that start processes themselves start them by a launcher, and not from within one.
#[test]
fn other_commands_have_launchers() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("compared");
    let launched = |args: &str| {
        let mut command = command(PROGRAM);
        command.args(args.split_whitespace()).args(["--launcher", "mpirun --oversubscribe --bind-to none -n 2"]);
        command
    };
    let args = format!(
        "compare --model 784-30-10 --methods dense,rigl --seeds 1 --steps 20 --update-interval 5 --shards 4 --threads 1 --json \
         --out {}",
        out.display()
    );
    for _again in 0..2 {
        let output = launched(&args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let runs: Vec<_> = fs::read_dir(out.join("runs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(runs.len(), 2);
    for run in runs {
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let done: Value = serde_json::from_str(metrics.lines().last().unwrap()).unwrap();
        assert_eq!((&done["ranks"]["count"], &done["ranks"]["shards"]), (&2.into(), &4.into()));
    }
    let step = "bench step --model 784-100-10 --density 0.1 --threads 1 --budget 0.1 --json";
    let output = launched(step).output().unwrap();
    let record = last_record(&output);
    assert_eq!(record["ranks"]["count"], 2, "{record} {}", String::from_utf8_lossy(&output.stderr));
    // Slowed down to 1 MB/s, sums take as long as their bytes.
    let slowed = last_record(&launched(step).args(["--interconnect", "1MB/s,1ms"]).output().unwrap());
    let bytes = slowed["ranks"]["sent_bytes"].as_f64().unwrap();
    assert!(slowed["time_ns"].as_f64().unwrap() > 1e9 * bytes / 1e6, "{slowed}");
    // One rank in a trace, two in a plan; of another batch, it is refused.
    let alone = |args: &str| command(PROGRAM).args(args.split_whitespace()).output().unwrap();
    let trace = folder.path().join("step.json").display().to_string();
    assert!(alone(&format!("{step} --trace {trace}")).status.success());
    let plan = format!("plan --model 784-100-10 --density 0.1 --ranks 2 --trace {trace} --json");
    let planned = last_record(&alone(&plan));
    assert!(
        planned["speed_up"].as_f64().unwrap() > 1.0 && planned["sum_bytes_per_step"].as_f64().unwrap() > 0.0,
        "{planned}"
    );
    let refused = alone(&format!("{plan} --batch-size 7"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("batch size 100, not for batch size 7"), "{refused:?}");
    let output = mpirun().args(["2", PROGRAM, "compare"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("--launcher \"mpirun -n 2\""), "{output:?}");
}

/// Values: the nodes of each bucket once to whoever adds them up, and the sums once to all.
#[test]
fn traffic_follows_density() {
    let folder = tempfile::tempdir().unwrap();
    let mut sent = vec![];
    for density in ["1", "0.1"] {
        let out: PathBuf = folder.path().join(density);
        let args = format!(
            "--model 784-1000-1000-10 --density {density} --method static --batch-size 256 --steps 20 --shards 8 --threads 1 \
             --out {}",
            out.display()
        );
        let record = last_record(&run(2, &args));
        let [nnz, of_ranks] = [&record["nnz"], &record["ranks"]["sent_value_bytes"]].map(|n| n.as_f64().unwrap());
        let numbers = nnz + 2010.0;
        // Half of the nodes to the other rank, and half of the sums: once all of them.
        let expected = 20.0 * 4.0 * numbers;
        assert!((of_ranks / expected - 1.0).abs() < 0.02, "density {density}: {of_ranks} bytes, expected {expected}");
        sent.push(of_ranks);
    }
    assert!(sent[1] < 0.12 * sent[0], "{sent:?}");
}
