//! The table of names, `names.txt`: reading it, and judging answers by it.

use std::collections::BTreeMap;
use std::str::FromStr;

use domain::base::Rtype;

use super::exchange::{Answer, code_name, normal, spelled};

/// What notes may be about.
const SERVERS: [&str; 4] = ["startgun", "nsd", "knot", "bind"];

/// One entry of the table.
#[derive(Debug, Default)]
pub struct Case {
    /// Source and sentence.
    pub title: String,
    pub name: String,
    pub rtype: u16,
    code: String,
    is_authoritative: bool,
    /// What the answer, authority and additional sections have; a SOA of which only owner and time count ends in `soa`.
    sections: [Vec<String>; 3],
    /// Servers that are known to answer otherwise, and why.
    pub unlike: BTreeMap<String, String>,
}

/// How much is asked of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Nothing but what the table lists, aliases in the order in which they lead on.
    Exact,
    /// Name servers and addresses may be added to a positive answer.
    Generous,
}

/// Reads the table.
///
/// # Panics
/// Where it has a fault.
pub fn read(text: &str) -> Vec<Case> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
    let mut cases: Vec<Case> = Vec::new();
    for (number, line) in lines {
        if line.starts_with('[') {
            cases.push(Case { title: line.to_owned(), ..Case::default() });
        } else if !line.is_empty() {
            let case = cases.last_mut().expect("a case begins with its source");
            case.take(line).unwrap_or_else(|fault| panic!("names.txt, line {}: {line:?}: {fault}", number + 1));
        }
    }
    cases
}

impl Case {
    fn take(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "ask" => {
                let (name, rtype) = rest.split_once(' ').ok_or("expected a name and a type")?;
                self.name = spelled(name);
                self.rtype = Rtype::from_str(rtype).map_err(|error| error.to_string())?.to_int();
            }
            "answer" => self.sections[0].push(record(rest)),
            "authority" => self.sections[1].push(record(rest)),
            "additional" => self.sections[2].push(record(rest)),
            "soa" => self.sections[1].push(normal(&format!("{rest} SOA"))),
            "unlike" => {
                let (servers, reason) = rest.split_once(": ").ok_or("expected servers and a reason")?;
                if servers.split(' ').any(|server| !SERVERS.contains(&server)) {
                    return Err(format!("expected some of {SERVERS:?}"));
                }
                self.unlike.extend(servers.split(' ').map(|server| (server.to_owned(), reason.to_owned())));
            }
            code => {
                let known = domain::base::iana::OptRcode::from_str(code).is_ok();
                if !known || !matches!(rest, "" | "AA") {
                    return Err("expected ask, answer, authority, additional, soa, unlike or a code".into());
                }
                (self.code, self.is_authoritative) = (code.to_owned(), rest == "AA");
            }
        }
        Ok(())
    }

    /// What is wrong with an answer.
    pub fn faults(&self, answer: &Answer, strictness: Strictness) -> Vec<String> {
        let mut faults = Vec::new();
        let code = code_name(answer.code);
        if code != self.code {
            faults.push(format!("{code} for {}", self.code));
        }
        if answer.is_authoritative() != self.is_authoritative {
            faults.push(format!("AA is {}", answer.is_authoritative()));
        }
        if answer.is_truncated() {
            faults.push("TC is set".into());
        }
        let is_positive = !self.sections[0].is_empty();
        for (place, section) in ["answer", "authority", "additional"].into_iter().enumerate() {
            let found = self.abridged(place, &answer.sections[place]);
            let (missing, surplus) = difference(&self.sections[place], &found);
            faults.extend(missing.iter().map(|record| format!("{section} lacks {record}")));
            let tolerated = strictness == Strictness::Generous && (place == 2 || place == 1 && is_positive);
            if !tolerated {
                faults.extend(surplus.iter().map(|record| format!("{section} has {record}")));
            }
        }
        if strictness == Strictness::Exact && !leads_on(&self.name, &answer.sections[0]) {
            faults.push(format!("not in the order in which it leads on: {:?}", answer.sections[0]));
        }
        faults
    }

    /// The records that were found, the SOA shortened where the table has it short.
    fn abridged(&self, place: usize, found: &[String]) -> Vec<String> {
        let short: Vec<&String> = self.sections[place].iter().filter(|record| record.ends_with(" soa")).collect();
        let shorten = |record: &String| {
            let head = short.iter().find(|head| record.starts_with(&format!("{head} ")));
            head.map_or_else(|| record.clone(), |head| (*head).clone())
        };
        found.iter().map(shorten).collect()
    }
}

/// A record of the table, its names spelled out.
fn record(text: &str) -> String {
    normal(&text.split(' ').map(spelled).collect::<Vec<_>>().join(" "))
}

/// What is only in one, and what only in the other, as often as it is there.
fn difference(expected: &[String], found: &[String]) -> (Vec<String>, Vec<String>) {
    let mut surplus = found.to_vec();
    let mut missing = Vec::new();
    for record in expected {
        match surplus.iter().position(|other| other == record) {
            Some(place) => drop(surplus.swap_remove(place)),
            None => missing.push(record.clone()),
        }
    }
    (missing, surplus)
}

/// Whether each record is about the name that was asked for, or that the alias before it names; a DNAME is about what is
/// below its owner.
fn leads_on(name: &str, answers: &[String]) -> bool {
    let mut at = name.to_ascii_lowercase();
    answers.iter().all(|record| {
        let words: Vec<&str> = record.splitn(4, ' ').collect();
        let [owner, _, rtype, data] = words[..] else { return words.len() == 3 && words[0] == at };
        match rtype {
            "dname" if at != owner => at.ends_with(&format!(".{owner}")),
            "cname" if at == owner => {
                at = data.to_owned();
                true
            }
            _ => at == owner,
        }
    })
}
