//! Every file of the fuzz targets' corpora, and every input that once was a fault, by the functions that the fuzzer calls.

#[path = "../../../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::path::{Path, PathBuf};

/// Below which everything that the fuzzer found new things by is committed: some hundred small files for each target.
const CORPUS_BYTES_MAX: u64 = 1 << 20;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

fn inputs(of: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(of).into_iter().flatten().map(|entry| entry.expect("an entry").path());
    let mut inputs: Vec<_> = entries.map(|path| (path.clone(), fs::read(path).expect("a file"))).collect();
    inputs.sort();
    inputs
}

/// Runs a target with all that is committed for it.
fn replay(name: &str) {
    let (_, target) = fuzz::TARGETS.into_iter().find(|(known, _)| *known == name).expect("a target");
    let corpus = inputs(&directory().join("corpus").join(name));
    assert!(corpus.len() >= 10, "{name}: a corpus of {} files", corpus.len());
    let mut all = corpus;
    all.extend(inputs(&directory().join("regressions").join(name)));
    for (path, bytes) in all {
        if std::panic::catch_unwind(|| target(&bytes)).is_err() {
            panic!("{}: see above", path.display());
        }
    }
}

/// A test for each target, so that they run side by side and a failure names its own.
macro_rules! replays {
    ($($test:ident $target:literal),*) => {
        $(#[test] fn $test() { replay($target); })*
        const REPLAYED: &[&str] = &[$($target),*];
    };
}

replays! {
    the_corpus_of_dns_queries_passes "dns_query",
    the_corpus_of_zone_files_passes "zone_file",
    the_corpus_of_frames_passes "frames",
    the_corpus_of_datagrams_passes "datagrams",
    the_corpus_of_control_documents_passes "control",
    the_corpus_of_transfers_passes "transfer",
    the_corpus_of_scenarios_passes "scenario",
    the_corpus_of_configurations_passes "configuration"
}

/// Orders name a playbook by a digest of its content: after a change of `fuzz/service/master.toml`, or of how playbooks are
/// digested, all of them would be refused, and the corpus be worth little.
#[test]
fn the_corpus_of_datagrams_reaches_departures_and_answers() {
    let corpus = inputs(&directory().join("corpus/datagrams"));
    let reached = corpus.iter().map(|(_, bytes)| fuzz::datagrams::run(bytes));
    let (departures, replies) = reached.fold((0, 0), |sum, one| (sum.0 + one.departures, sum.1 + one.replies));
    assert!(departures >= 5 && replies >= 5, "{departures} departures and {replies} answers");
}

#[test]
fn every_target_has_a_corpus_that_is_replayed_and_a_binary() {
    for (name, _) in fuzz::TARGETS {
        assert!(REPLAYED.contains(&name), "{name} is not replayed");
        assert!(directory().join(format!("fuzz_targets/{name}.rs")).exists(), "{name} has no binary");
    }
    for kind in ["corpus", "regressions"] {
        for (path, _) in inputs_of_directories(&directory().join(kind)) {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            assert!(REPLAYED.contains(&name.as_str()), "{} belongs to no target", path.display());
        }
    }
    let all = fuzz::TARGETS.iter().flat_map(|(name, _)| inputs(&directory().join("corpus").join(name)));
    let bytes: u64 = all.map(|(_, bytes)| bytes.len() as u64).sum();
    assert!(bytes <= CORPUS_BYTES_MAX, "corpora of {bytes} bytes, at most {CORPUS_BYTES_MAX}: minimise them");
}

fn inputs_of_directories(of: &Path) -> Vec<(PathBuf, ())> {
    fs::read_dir(of).into_iter().flatten().map(|entry| (entry.expect("an entry").path(), ())).collect()
}
