//! `startgun demo`: the whole of Startgun on an emulated network, with real resolvers, in one command.
//!
//! The lab makes a namespace for every host and a network between them; here the ordinary programs are started on it: this
//! binary as fleet tool, master and agents, and the installed resolvers. Each attempt asks for fresh names for so many
//! seconds; what the agents wrote into their audit logs is then compared with the truth that only the lab knows.

mod audit;
mod fleet;
mod simulation;

use crate::status::{self, Document, MasterDocument};
use audit::Measured;
use startgun_core::time::Span;
use startgun_lab::client::{Ask, Load, Progress, QueryRecord};
use startgun_lab::namespace::{self, Entered};
use startgun_lab::process::Process;
use startgun_lab::report::agreement::{Agreement, ClientAgreement, Outcome};
use startgun_lab::report::{Attempt, BoundSpread, ClientReport, ErrorSpread, Report, SignedSpread, Spread, Style};
use startgun_lab::resolver::{self, ResolverKind};
use startgun_lab::scenario::Scenario;
use startgun_lab::steal::CpuTimes;
use startgun_lab::world::{SERVICE_IPV4, World};
use startgun_net::host_clock::raw_ns;
use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The zone of the demo; every name below it is raced.
pub const ZONE: &str = "cdn.test.";
/// Queries per second of all clients together: 30 s make 420 races, and two cores are far from busy.
const QUERIES_PER_S: f64 = 14.0;
/// A disturbed attempt is repeated: the hypervisor took more than this share of the processors' time.
const STEAL_SHARE_MAX: f64 = 0.01;
/// Attempts in all.
const ATTEMPTS_MAX: u64 = 3;
/// Everything must be ready within this time, resolvers included.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// Samples in every agent's clock before the load begins: the rate of a clock that drifts by 50 ppm is then known.
const LEAST_SAMPLES: usize = 40;
/// Queries of each client before the first attempt, not counted: they validate its resolver over TCP and let it learn
/// how long this server takes, as a resolver in service has long done.
const WARM_UP_QUERIES: u32 = 6;
const WARM_UP_INTERVAL: Duration = Duration::from_millis(1_100);

/// Run masters, agents and real resolvers on an emulated network and show who reaches which site
#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// A built-in scenario (cities, lan, asymmetric) or a scenario file
    #[arg(long, value_name = "NAME|FILE", default_value = "cities")]
    scenario: String,
    /// How long the clients ask, in seconds from readiness on, 1 to 3600
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Seed of all that is drawn at random: clocks, jitter, loss
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// The clients' resolvers: every installed one in turn, or a list of unbound, bind, kresd, pdns, dnsmasq, resolved and
    /// builtin, separated by commas
    #[arg(long, value_name = "auto|LIST", default_value = "auto")]
    clients: String,
    /// Form of the report on standard output
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Text)]
    report: Format,
    /// Ask for one raced name with `startgun race` from the first client's host before the load, and print the finish on
    /// standard error
    #[arg(long)]
    show_race: bool,
    /// Run the same scenario in the simulator too, and compare; exit with 1 where they do not agree
    #[arg(long)]
    simulate: bool,
    /// Keep configurations, logs and audit records in this directory [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// The command. Must be called while the process has a single thread.
///
/// # Errors
/// A sentence for the user: what is missing, or what did not get ready.
pub fn run(args: &DemoArgs) -> Result<(), String> {
    let scenario = Scenario::find(&args.scenario).map_err(|error| error.to_string())?;
    let resolvers = choose_resolvers(&args.clients, scenario.clients.len())?;
    let entered = namespace::enter_user_namespace_if_needed().map_err(|error| error.to_string())?;
    let directory = Directory::make(args.keep.as_deref())?;
    let mut line = ProgressLine::new();
    line.show(&format!("{}: building {} hosts", scenario.name, 1 + scenario.agents.len() + scenario.clients.len()));
    let world = World::build(&scenario, args.seed).map_err(|error| format!("building the network: {error}"))?;
    let stage = Stage::set(&scenario, world, resolvers, &directory.path, &mut line)?;
    stage.warm_up(&mut line)?;
    if args.show_race {
        line.clear();
        stage.show_race()?;
    }
    let mut attempts = Vec::new();
    let report = loop {
        let attempt = attempts.len() as u64 + 1;
        let (mut report, figures) = stage.attempt(args, attempt, &mut line)?;
        attempts.push(figures);
        if figures.cpu_steal_share <= STEAL_SHARE_MAX || attempt == ATTEMPTS_MAX {
            report.attempts = attempt;
            report.attempt_list = attempts;
            report.notes = notes(&entered, &report, &stage);
            break report;
        }
    };
    line.clear();
    let text = match args.report {
        Format::Json => report.to_json().map_err(|error| error.to_string())? + "\n",
        Format::Text => report.to_text(Style::for_stdout()),
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| format!("writing the report: {error}"))?;
    match report.agreement {
        Some(agreement) if !agreement.agrees => Err("model and reality do not agree, see the report".into()),
        _ => Ok(()),
    }
}

/// Which resolver each client gets: kind, program, version.
type Chosen = (ResolverKind, PathBuf, String);

fn choose_resolvers(list: &str, clients: usize) -> Result<Vec<Chosen>, String> {
    let builtin = || (ResolverKind::Builtin, PathBuf::new(), env!("CARGO_PKG_VERSION").to_owned());
    let installed = ResolverKind::installed();
    let pool: Vec<Chosen> = if list == "auto" {
        if installed.is_empty() { vec![builtin()] } else { installed }
    } else {
        let find = |name: &str| {
            let kind = ResolverKind::named(name).ok_or_else(|| {
                format!("--clients: \"{name}\" is no resolver; expected auto or a list of unbound, bind, kresd, pdns, dnsmasq, resolved, builtin")
            })?;
            if kind == ResolverKind::Builtin {
                return Ok(builtin());
            }
            let found = installed.iter().find(|(installed, ..)| *installed == kind).cloned();
            found.ok_or_else(|| format!("--clients: {name} is not installed (`make demo-deps` installs it)"))
        };
        list.split(',').map(|name| find(name.trim())).collect::<Result<_, String>>()?
    };
    Ok(pool.into_iter().cycle().take(clients).collect())
}

/// A working directory that goes when the demo does, unless it is to be kept.
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn make(keep: Option<&Path>) -> Result<Self, String> {
        let path = keep.map_or_else(
            || std::env::temp_dir().join(format!("startgun-demo-{}-{}", std::process::id(), raw_ns())),
            Path::to_path_buf,
        );
        crate::startup::private_directory(&path)?;
        let path = path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Directory { path, keep: keep.is_some() })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// One line on standard error that is written over; on no terminal, a line whenever something new begins.
struct ProgressLine {
    terminal: bool,
    last: String,
}

impl ProgressLine {
    fn new() -> Self {
        ProgressLine { terminal: std::io::stderr().is_terminal(), last: String::new() }
    }

    fn show(&mut self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{text}");
        } else if self.last != text {
            eprintln!("{text}");
        }
        self.last = text.to_owned();
    }

    /// For what changes every second: shown on a terminal only.
    fn tick(&mut self, text: &str) {
        if self.terminal {
            self.show(text);
        }
    }

    fn clear(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}

/// Everything that runs.
struct Stage {
    scenario: Scenario,
    // Dropped before the world: the processes live on its hosts.
    processes: Vec<Process>,
    world: World,
    directory: PathBuf,
    asks: Vec<(Ask, ResolverKind, String)>,
}

impl Stage {
    /// Starts master, agents and resolvers and waits until all are ready.
    fn set(
        scenario: &Scenario,
        world: World,
        resolvers: Vec<Chosen>,
        directory: &Path,
        line: &mut ProgressLine,
    ) -> Result<Self, String> {
        fleet::make(&world, directory)?;
        let mut processes = vec![fleet::start(&world.master, "master", directory)?];
        for agent in &world.agents {
            processes.push(fleet::start(agent, "agent", directory)?);
        }
        let mut asks = Vec::new();
        for (client, (kind, program, version)) in world.clients.iter().zip(resolvers) {
            let ask = if kind == ResolverKind::Builtin {
                Ask::Service(service())
            } else {
                line.show(&format!("starting {kind} in {}", client.name));
                let own = directory.join(&client.id);
                crate::startup::private_directory(&own)?;
                let fault = |error: std::io::Error| format!("{kind} in {}: {error}", client.name);
                let launch = resolver::prepare(kind, &program, &own, ZONE, service()).map_err(fault)?;
                processes.push(client.spawn(launch.command).map_err(fault)?);
                let probe = launch.probe;
                client.run(move || probe.wait(READY_TIMEOUT)).map_err(fault)?;
                Ask::Resolver(launch.address)
            };
            asks.push((ask, kind, version));
        }
        let mut stage = Stage { scenario: scenario.clone(), processes, world, directory: directory.to_owned(), asks };
        stage.wait_until_ready(line)?;
        Ok(stage)
    }

    fn master_status(&self) -> Result<MasterDocument, String> {
        match status::fetch(&self.directory.join("master.sock"))? {
            Document::Master(master) => Ok(master),
            Document::Agent(_) => Err("the master's socket belongs to an agent".into()),
        }
    }

    fn wait_until_ready(&mut self, line: &mut ProgressLine) -> Result<(), String> {
        let sites = self.scenario.agents.len();
        let end = Instant::now() + READY_TIMEOUT;
        loop {
            self.check_processes()?;
            let status = self.master_status();
            let ready = status.as_ref().map_or(0, |master| {
                let samples = |agent: &startgun_core::master::AgentStatus| {
                    agent.report.as_ref().and_then(|report| report.clock.as_ref()).map_or(0, |clock| clock.samples)
                };
                master.agents.iter().filter(|agent| agent.racing && samples(agent) >= LEAST_SAMPLES).count()
            });
            line.show(&format!("{ready} of {sites} agents ready"));
            if ready == sites {
                return Ok(());
            }
            if Instant::now() > end {
                let reasons: Vec<String> = match status {
                    Ok(master) => master
                        .agents
                        .iter()
                        .filter_map(|agent| Some(format!("{}: {}", agent.site, agent.reason.as_ref()?)))
                        .collect(),
                    Err(error) => vec![error],
                };
                return Err(format!("only {ready} of {sites} agents got ready: {}", reasons.join("; ")));
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }

    /// A program that has ended will not get ready: say what it said.
    fn check_processes(&mut self) -> Result<(), String> {
        for process in &mut self.processes {
            let ended = process.try_wait().map_err(|error| format!("{}: {error}", process.program()))?;
            if let Some(status) = ended {
                let logs = std::iter::once(&self.world.master).chain(&self.world.agents).filter_map(|host| {
                    let log = std::fs::read_to_string(self.directory.join(format!("{}.log", host.id))).ok()?;
                    let fault = log.lines().rev().find(|line| line.starts_with("startgun: "))?;
                    Some(format!("{}: {fault}", host.id))
                });
                let logs: Vec<String> = logs.collect();
                return Err(format!("{} ended, {status}; {}", process.program(), logs.join("; ")));
            }
        }
        Ok(())
    }

    /// Lets every client ask on its own host.
    fn start_load(
        &self,
        prefix: &str,
        interval: Duration,
        duration: Duration,
    ) -> Result<Vec<(Arc<Progress>, LoadThread)>, String> {
        let base = ZONE.parse().map_err(|error| format!("{ZONE}: {error}"))?;
        let mut loads = Vec::new();
        for (number, (client, (ask, ..))) in self.world.clients.iter().zip(&self.asks).enumerate() {
            let load = Load {
                ask: *ask,
                wildcard_base: Clone::clone(&base),
                prefix: format!("{prefix}-{}", client.id),
                interval,
                start_after: interval.mul_f64(number as f64 / self.world.clients.len() as f64),
                duration,
            };
            let progress = Arc::new(Progress::default());
            let shared = Arc::clone(&progress);
            let thread = client
                .thread("load", move || load.run(&shared))
                .map_err(|error| format!("the load in {}: {error}", client.name))?;
            loads.push((progress, thread));
        }
        Ok(loads)
    }

    fn warm_up(&self, line: &mut ProgressLine) -> Result<(), String> {
        line.show("warming the resolvers up");
        for (_, thread) in self.start_load("warm", WARM_UP_INTERVAL, WARM_UP_INTERVAL * WARM_UP_QUERIES)? {
            finished(thread)?;
        }
        Ok(())
    }

    /// `startgun race` as an operator would type it, from the first client's host.
    fn show_race(&self) -> Result<(), String> {
        let Some(client) = self.world.clients.first() else { return Ok(()) };
        let own = std::env::current_exe().map_err(|error| format!("finding this program: {error}"))?;
        let output = client
            .run(move || {
                let arguments = ["race", "show.cdn.test", &format!("@{SERVICE_IPV4}"), "--validate"];
                std::process::Command::new(own).args(arguments).output()
            })
            .map_err(|error| format!("startgun race: {error}"))?;
        eprintln!("startgun race, from {}:", client.name);
        eprintln!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Time between two queries of one client.
    fn interval(&self) -> Duration {
        Duration::from_secs_f64(self.world.clients.len() as f64 / QUERIES_PER_S)
    }

    /// One attempt: load, then the report of it.
    fn attempt(&self, args: &DemoArgs, attempt: u64, line: &mut ProgressLine) -> Result<(Report, Attempt), String> {
        let fault = |error: std::io::Error| format!("reading processor times: {error}");
        let before = CpuTimes::read().map_err(fault)?;
        let begun_raw_ns = raw_ns();
        let interval = self.interval();
        let loads = self.start_load(&format!("q{attempt}"), interval, Duration::from_secs(args.seconds))?;
        line.show(&format!("attempt {attempt}: racing for {} s", args.seconds));
        let begun = Instant::now();
        while loads.iter().any(|(_, thread)| !thread.is_finished()) {
            let sum = |count: fn(&Progress) -> u64| loads.iter().map(|(progress, _)| count(progress)).sum::<u64>();
            let sent = sum(|progress| progress.sent.load(Ordering::Relaxed));
            let answered = sum(|progress| progress.answered.load(Ordering::Relaxed));
            let elapsed = begun.elapsed().as_secs();
            line.tick(&format!(
                "attempt {attempt}: {elapsed} of {} s, {answered} of {sent} queries answered",
                args.seconds
            ));
            std::thread::sleep(Duration::from_millis(200));
        }
        let records = loads.into_iter().map(|(_, thread)| finished(thread)).collect::<Result<Vec<_>, _>>()?;
        // The last departures' records are written within the audit log's flush interval.
        std::thread::sleep(Duration::from_millis(600));
        let steal = CpuTimes::read().map_err(fault)?.steal_share_since(&before);
        let measured = audit::measure(&self.world, &self.directory, begun_raw_ns)?;
        let report = self.report(args, &records, measured, steal)?;
        let figures = Attempt {
            races: report.races,
            cpu_steal_share: steal,
            nearest_share: overall_share(&report),
            start_spread_us_p50: report.start_spread_us.p50,
        };
        Ok((report, figures))
    }

    fn report(
        &self,
        args: &DemoArgs,
        records: &[Vec<QueryRecord>],
        measured: Measured,
        steal: f64,
    ) -> Result<Report, String> {
        let master = self.master_status()?;
        let sites = &self.scenario.agents;
        let site_of =
            |address: Ipv4Addr| fleet::site_of(address).and_then(|index| sites.get(index)).map(String::as_str);
        let truths = self.scenario.truth();
        let clients = truths.iter().zip(&self.world.clients).zip(&self.asks).zip(records);
        let clients: Vec<ClientReport> = clients
            .map(|(((truth, client), (_, kind, version)), records)| {
                let races = measured.races_of_client.get(&client.ipv4).copied().unwrap_or(0);
                ClientReport::of(truth, (kind.name(), version), records, races, site_of)
            })
            .collect();
        let agreement = if args.simulate { Some(self.agreement(args, records)?) } else { None };
        let forward = master.agents.iter().filter_map(|agent| {
            let delay = agent.report.as_ref()?.forward_delay?;
            let host = self.world.agents.iter().find(|host| host.id == agent.name)?;
            Some((host.name.clone(), delay.p99.as_millis_f64()))
        });
        Ok(Report {
            scenario: self.scenario.name.clone(),
            seed: args.seed,
            seconds: args.seconds,
            clients,
            races: measured.races,
            start_spread_us: Spread::of(measured.start_spread_us),
            lateness_us: SignedSpread::of(measured.lateness_us),
            clock_readings: measured.clock_error_us.len() as u64,
            clock_error_us: ErrorSpread::of_absolute(measured.clock_error_us),
            clock_bound_us: BoundSpread::of(measured.clock_bound_us),
            clock_bound_violations: measured.clock_bound_violations,
            forward_delay_ms: forward.collect::<BTreeMap<_, _>>(),
            predetermined_delay_ms: master.races.iter().find_map(|race| race.predetermined_delay_ms).unwrap_or(0.0),
            cpu_steal_share: steal,
            attempts: 0,
            attempt_list: Vec::new(),
            notes: Vec::new(),
            agreement,
        })
    }

    /// The same scenario in the simulator, beside what became of the clients' queries here.
    fn agreement(&self, args: &DemoArgs, records: &[Vec<QueryRecord>]) -> Result<Agreement, String> {
        let sites = &self.scenario.agents;
        let duration = Duration::from_secs(args.seconds);
        let simulated = simulation::run(&self.scenario, args.seed, self.interval(), duration)?;
        let name_of = |site: Option<usize>| site.and_then(|index| sites.get(index)).map(String::as_str);
        let truths = self.scenario.truth();
        let clients = truths.iter().zip(records).zip(&simulated.clients).map(|((truth, records), simulated)| {
            let lab = records.iter().map(|record| {
                let after_ms = record.answered_after?.as_secs_f64() * 1e3;
                Some(Outcome { site: name_of(record.address.and_then(fleet::site_of)), after_ms })
            });
            let sim = simulated.iter().map(|answered| {
                answered.map(|answered| Outcome { site: name_of(answered.site), after_ms: answered.after_ms })
            });
            ClientAgreement::of(truth, &lab.collect::<Vec<_>>(), &sim.collect::<Vec<_>>())
        });
        let queries = records.iter().map(|records| records.len() as u64).sum();
        Ok(Agreement::of(clients.collect(), queries, simulated.predetermined_delay_ms))
    }
}

type LoadThread = JoinHandle<std::io::Result<Vec<QueryRecord>>>;

fn finished(thread: LoadThread) -> Result<Vec<QueryRecord>, String> {
    let result = thread.join().map_err(|_| "the load panicked".to_owned())?;
    result.map_err(|error| format!("the load: {error}"))
}

fn service() -> SocketAddr {
    SocketAddr::new(SERVICE_IPV4.into(), 53)
}

fn overall_share(report: &Report) -> f64 {
    let answered: u64 = report.clients.iter().map(|client| client.answered).sum();
    let nearest: f64 = report.clients.iter().map(|client| client.nearest_share * client.answered as f64).sum();
    nearest / (answered.max(1) as f64)
}

fn notes(entered: &Entered, report: &Report, stage: &Stage) -> Vec<String> {
    let mut notes = vec![
        "All agents share this machine's few cores and start at the same instant, so they compete: the start spread here \
         is larger than between machines of their own."
            .to_owned(),
        "The first queries of each resolver, which validate it over TCP and teach it this server's delay, were asked \
         before the measurement and are not counted."
            .to_owned(),
    ];
    if *entered == Entered::UserNamespace {
        notes.push("Run as an ordinary user: no real-time priority, so that other load on this machine shows.".into());
    }
    if report.cpu_steal_share > STEAL_SHARE_MAX {
        notes.push(format!(
            "The hypervisor took {:.1} % of the processors' time, also after {ATTEMPTS_MAX} attempts: percentiles above \
             the median say more about it than about Startgun.",
            report.cpu_steal_share * 100.0
        ));
    }
    if stage.asks.iter().all(|(_, kind, _)| *kind == ResolverKind::Builtin) {
        let why = match ResolverKind::installed().is_empty() {
            true => "No resolver is installed (`make demo-deps` installs some): a",
            false => "A",
        };
        notes.push(format!("{why} built-in stub asked instead of a resolver."));
    }
    let late = Span::from_millis_f64(report.lateness_us.p99 / 1e3);
    if late > Span::from_millis(2) {
        notes.push("Some departures were later than the default tolerance and were dropped by their agents.".into());
    }
    notes
}
