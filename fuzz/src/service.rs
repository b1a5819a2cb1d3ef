//! What the targets serve: zones of every shape, and raced names of every kind, by a configuration as an operator writes it.

use startgun_core::master::SharedService;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The directory of this package; its sources are compiled into a test of another one as well.
pub fn directory() -> &'static Path {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let mut fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|directory| directory.join("fuzz"));
        let found = fuzz.find(|directory| directory.join("service").is_dir());
        found.expect("the targets run where they were compiled")
    })
}

/// The service of `service/master.toml`, read once. Its races are not signed: signatures are random, and with them would be
/// the version of the playbook, which the corpora name.
pub fn service() -> SharedService {
    static SERVICE: OnceLock<SharedService> = OnceLock::new();
    let load = || {
        let path = directory().join("service/master.toml");
        match startgun::config::load_master(&path) {
            Ok(loaded) => Arc::new(loaded.config.service),
            Err(faults) => panic!("{}", faults.iter().map(|fault| format!("{fault}\n")).collect::<String>()),
        }
    };
    SERVICE.get_or_init(load).clone()
}
