//! The documents tell the truth about names, commands, links and counters.
//!
//! Prose cannot be compiled, and an architecture document that names what was deleted is worse than none. What can be
//! checked by machine is checked here: code names with `::` and paths below `crates/` in ARCHITECTURE.md, `startgun`
//! commands and their options in all documents, links between files, counters in docs/operations.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What introduces a definition; an enum's variants and a struct's fields begin their line instead.
const DEFINING: [&str; 9] = ["fn", "struct", "enum", "trait", "type", "const", "static", "mod", "impl"];
/// Directories below the workspace without documents or sources of ours.
const FOREIGN: [&str; 3] = ["target", ".git", "corpus"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a readable directory").flatten() {
        let path = entry.path();
        if path.is_dir() && !FOREIGN.iter().any(|name| path.ends_with(name)) {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn read_all(directory: &Path, extension: &str) -> BTreeMap<PathBuf, String> {
    let mut paths = Vec::new();
    files(directory, extension, &mut paths);
    paths.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).expect("UTF-8"))).collect()
}

fn documents() -> BTreeMap<PathBuf, String> {
    let documents = read_all(&root(), "md");
    assert!(documents.len() >= 8, "README, ARCHITECTURE, CHANGELOG, CONTRIBUTING and docs: {:?}", documents.keys());
    documents
}

/// The text of all code spans and code blocks, a line or span each.
fn code(document: &str) -> Vec<String> {
    let mut code = Vec::new();
    let mut paragraph = String::new();
    // A span may run over the end of a line, never over the end of a paragraph.
    let spans = |paragraph: &mut String, code: &mut Vec<String>| {
        code.extend(paragraph.split('`').skip(1).step_by(2).map(str::to_owned));
        paragraph.clear();
    };
    let mut fenced = false;
    for line in document.lines() {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        if fence || fenced || line.is_empty() || (line.starts_with("    ") && paragraph.is_empty()) {
            spans(&mut paragraph, &mut code);
            if !fence && !line.is_empty() {
                code.push(line.trim().to_owned());
            }
        } else {
            paragraph.push_str(line.trim());
            paragraph.push(if line.starts_with('|') { '\n' } else { ' ' });
        }
    }
    spans(&mut paragraph, &mut code);
    code
}

fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Whether a source defines `item`: by a keyword, or as a variant or field that begins its line.
fn defines(source: &str, item: &str) -> bool {
    source.lines().any(|line| {
        let line = line.trim_start();
        let code = line.split("//").next().unwrap_or_default();
        let words: Vec<&str> = identifiers(code).collect();
        let by_keyword = words.windows(2).any(|pair| DEFINING.contains(&pair[0]) && pair[1] == item);
        let field = line.strip_prefix("pub ").unwrap_or(line);
        let by_place =
            field.strip_prefix(item).is_some_and(|rest| rest.starts_with([',', '(', ':']) || rest.starts_with(" {"));
        by_keyword || by_place
    })
}

/// Whether a file is (part of) the module or crate of that name.
fn belongs_to(path: &Path, module: &str) -> bool {
    let as_crate = module.strip_prefix("startgun_").map(|name| format!("crates/{name}/src/"));
    match as_crate {
        Some(directory) => path.to_string_lossy().contains(&directory),
        None => path.with_extension("").components().any(|part| part.as_os_str() == module),
    }
}

/// Whether `parent::item` is defined somewhere: a type's item in a file that defines or implements the type, a module's
/// in one of its files.
fn pair_exists(sources: &BTreeMap<PathBuf, String>, parent: &str, item: &str) -> bool {
    let is_type = parent.starts_with(|c: char| c.is_uppercase());
    sources.iter().any(|(path, source)| match is_type {
        true => defines(source, parent) && defines(source, item),
        false => belongs_to(path, parent) && defines(source, item),
    })
}

fn name_exists(sources: &BTreeMap<PathBuf, String>, name: &str) -> bool {
    let segments: Vec<&str> = name.trim_end_matches("()").split("::").collect();
    segments.windows(2).all(|pair| pair_exists(sources, pair[0], pair[1]))
}

#[test]
fn every_name_in_the_architecture_exists() {
    let root = root();
    let sources = read_all(&root.join("crates"), "rs");
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let (mut names, mut missing) = (0, Vec::new());
    for span in code(&architecture) {
        let found = if span.starts_with("crates/") {
            root.join(&span).exists()
        } else if span.contains("::") {
            name_exists(&sources, &span)
        } else {
            continue;
        };
        names += 1;
        if !found {
            missing.push(span);
        }
    }
    assert!(missing.is_empty(), "ARCHITECTURE.md names what does not exist: {missing:?}");
    assert!(names >= 40, "only {names} names found in ARCHITECTURE.md");
}

#[test]
fn invented_names_are_noticed() {
    let sources = read_all(&root().join("crates"), "rs");
    for real in [
        "Shard::handle_arrival",
        "master::MAX_FALLBACK_TTL_S",
        "Delay::Cover",
        "Order::revision",
        "startgun_core::clock",
    ] {
        assert!(name_exists(&sources, real), "{real}");
    }
    for invented in [
        "Shard::handle_nothing",
        "Shords::handle_arrival",
        "Delay::Covered",
        "clock::Shard",
        "startgun_core::UdpSocket",
    ] {
        assert!(!name_exists(&sources, invented), "{invented}");
    }
}

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_startgun")).args(command).arg("--help").output().expect("it starts");
    assert!(output.status.success(), "{command:?} --help");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The subcommands that a help text lists.
fn subcommands(help: &str) -> BTreeSet<String> {
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    listed.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// The words after `startgun` in a piece of code, as far as they may belong to the command. Elsewhere than where a command
/// stands, `startgun` may be a file's or a user's name.
fn invocations(code: &str) -> Vec<Vec<&str>> {
    let separates = |word: &str| ["&&", "|", ";", "&"].contains(&word);
    let words: Vec<&str> = code.split_whitespace().take_while(|word| *word != "#").collect();
    let is_command = |at: usize| {
        let is_program = words[at] == "startgun" || words[at].ends_with("/startgun");
        is_program
            && at.checked_sub(1).is_none_or(|before| {
                let before = words[before];
                separates(before) || before.ends_with('$') || before == "sudo" || before.contains('=')
            })
    };
    let starts = (0..words.len()).filter(|at| is_command(*at));
    starts.map(|start| words[start + 1..].iter().copied().take_while(|word| !separates(word)).collect()).collect()
}

#[test]
fn every_command_and_option_in_the_documents_exists() {
    let top = subcommands(&help(&[]));
    assert!(top.contains("demo") && top.contains("fleet"), "{top:?}");
    let fleet = subcommands(&help(&["fleet"]));
    let mut helps: BTreeMap<Vec<&str>, String> = BTreeMap::new();
    let (mut seen, mut faults) = (BTreeSet::new(), Vec::new());
    let documents = documents();
    let snippets: Vec<(&PathBuf, String)> =
        documents.iter().flat_map(|(path, text)| code(text).into_iter().map(move |code| (path, code))).collect();
    for (path, code) in &snippets {
        for words in invocations(code) {
            let Some(&first) = words.first().filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase())) else {
                continue;
            };
            let second = words.get(1).copied().unwrap_or_default();
            if !top.contains(first) || first == "fleet" && !second.is_empty() && !fleet.contains(second) {
                faults.push(format!("{}: {code}: no such command", path.display()));
                continue;
            }
            seen.insert(first);
            let command = if first == "fleet" && !second.is_empty() { vec![first, second] } else { vec![first] };
            let help = helps.entry(command.clone()).or_insert_with(|| help(&command));
            for option in words.iter().filter_map(|word| word.strip_prefix("--")).filter(|option| !option.is_empty()) {
                let option: String = option.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect();
                if !help.split_whitespace().any(|word| word.trim_end_matches(',') == format!("--{option}")) {
                    faults.push(format!("{}: {code}: no option --{option}", path.display()));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(seen.len() >= 7, "only these commands are mentioned: {seen:?}");
}

#[test]
fn every_relative_link_resolves() {
    let (mut links, mut broken) = (0, Vec::new());
    for (path, text) in documents() {
        let directory = path.parent().expect("a directory");
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            links += 1;
            if !directory.join(file).exists() {
                broken.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    assert!(links >= 10, "only {links} links found");
}

/// The names of the counters in a source: every literal that is counted, or that is a refusal's or a reason's name.
fn counters(source: &str) -> BTreeSet<&str> {
    let source = source.split("#[cfg(test)]").next().unwrap_or_default();
    let literals = source.split('"').skip(1).step_by(2);
    let befores = source.split('"').step_by(2);
    let named = |literal: &str| {
        let prefixes = [
            "accepts_",
            "answers_",
            "audit_",
            "connections_",
            "datagram_",
            "departures",
            "order_refused_",
            "orders",
            "queries",
            "receipts_",
            "signals",
            "stood_down_",
            "sync_",
            "tls_",
            "transfers_",
            "zone_checks",
        ];
        prefixes.iter().any(|prefix| literal.starts_with(prefix))
    };
    literals
        .zip(befores)
        .filter(|(literal, before)| before.ends_with("count(") || before.ends_with("entry(") || named(literal))
        .map(|(literal, _)| literal)
        .filter(|literal| literal.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        .collect()
}

#[test]
fn every_counter_is_explained_to_operators() {
    let root = root();
    let operations = fs::read_to_string(root.join("docs/operations.md")).expect("docs/operations.md");
    let explained: BTreeSet<String> = code(&operations).into_iter().collect();
    let mut sources = read_all(&root.join("crates/core/src/agent"), "rs");
    sources.extend(read_all(&root.join("crates/core/src/master"), "rs"));
    sources.extend(read_all(&root.join("crates/core/src/wire"), "rs"));
    sources.extend(read_all(&root.join("crates/startgun/src/agent"), "rs"));
    sources.extend(read_all(&root.join("crates/startgun/src/master/tcp"), "rs"));
    sources.extend(read_all(&root.join("crates/startgun/src/master/secondary"), "rs"));
    sources.retain(|path, _| !belongs_to(path, "tests"));
    let counted: BTreeSet<&str> = sources.values().flat_map(|source| counters(source)).collect();
    assert!(counted.len() >= 40, "only these counters found: {counted:?}");
    let unexplained: Vec<&&str> = counted.iter().filter(|name| !explained.contains(**name)).collect();
    assert!(unexplained.is_empty(), "docs/operations.md does not explain {unexplained:?}");
}
