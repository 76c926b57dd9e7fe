//! `gantry dev cluster`: a whole cluster as processes of this machine, for trying things out: kill any of them and look what happens.
//!
//! The processes are this program itself in its roles, with ports of their own that stay the same from one start to the next.

use clap::{Args, Subcommand};
use gantry_platform::chance::Chance;
use gantry_platform::clock::{sleep, timeout};
use gantry_platform::disk::{Disk, write_whole};
use gantry_platform::{RealDisk, SystemChance};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf, absolute};
use std::process::{ExitCode, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::shutdown::Signals;

/// How long a process may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// How long one may take to end before it is killed.
const END: Duration = Duration::from_secs(35);
/// The file with what must stay the same.
const TOKEN: &str = "token";

/// What `gantry dev` can do.
#[derive(Debug, Subcommand)]
pub enum DevCommand {
    /// Run a cluster of several processes on this machine until Ctrl-C
    #[command(after_help = "\
Examples:
  gantry dev cluster                          3 controllers, 3 brokers and 2 proxies in ./gantry-cluster
  gantry dev cluster --brokers 5 --shards 16  more of them
  kill -9 $(cat gantry-cluster/broker-1/pid)  see what happens
  gantry dev start broker-1                   and bring it back, from another terminal")]
    Cluster(ClusterArgs),
    /// Start one process of a `gantry dev cluster` again, in this terminal
    Start(StartArgs),
}

/// The flags of `gantry dev cluster`.
#[derive(Clone, Debug, Args)]
pub struct ClusterArgs {
    /// Folder for the data and logs of all processes
    #[arg(long, short, value_name = "DIR", default_value = "./gantry-cluster")]
    data: PathBuf,
    /// How many controllers: 1, 3 or 5
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=5))]
    controllers: u16,
    /// How many brokers
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=16))]
    brokers: u16,
    /// How many proxies
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=8))]
    proxies: u16,
    /// Shards of the cluster; fixed when it is made
    #[arg(long, value_name = "N", default_value_t = 4)]
    shards: u32,
    /// Copies of each shard: 1, 2, 3 or 5 [default: 3, or as many as there are brokers]
    #[arg(long, value_name = "N")]
    copies: Option<u16>,
    /// The first proxy takes this port for clients, the next one ten more; all other ports follow from it
    #[arg(long, value_name = "PORT", default_value_t = 8081)]
    port: u16,
    /// How much the processes log
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
}

/// The flags of `gantry dev start`.
#[derive(Clone, Debug, Args)]
pub struct StartArgs {
    /// Its name, as `gantry dev cluster` shows it
    name: String,
    /// The folder of the cluster
    #[arg(long, short, value_name = "DIR", default_value = "./gantry-cluster")]
    data: PathBuf,
}

/// Why there is no cluster.
#[derive(Debug)]
enum DevError {
    Folder {
        path: PathBuf,
        error: io::Error,
    },
    Process {
        name: String,
        error: io::Error,
    },
    /// A process ended before it was ready.
    Ended {
        name: String,
        log: PathBuf,
    },
    Slow {
        name: String,
        log: PathBuf,
    },
    Shape(String),
    System(io::Error),
}

impl fmt::Display for DevError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DevError::Folder { path, error } => write!(f, "`{}` can't be used: {error}", path.display()),
            DevError::Process { name, error } => write!(f, "{name} can't be started: {error}"),
            DevError::Ended { name, log } => write!(f, "{name} ended before it was ready; its reasons are at the end of `{}`", log.display()),
            DevError::Slow { name, log } => write!(f, "{name} was not ready within {READY:?}; look at `{}`", log.display()),
            DevError::Shape(why) => f.write_str(why),
            DevError::System(error) => write!(f, "the cluster can't be started: {error}"),
        }
    }
}

/// One process and how it is started.
#[derive(Clone, Debug)]
struct Plan {
    name: String,
    /// The flags of `gantry server`, besides those that all have.
    flags: Vec<String>,
}

/// The ports of everything, which follow from one.
#[derive(Clone, Copy, Debug)]
struct Ports(u16);

impl Ports {
    fn messaging(self, proxy: u16) -> u16 {
        self.0 + 10 * proxy
    }

    fn admin(self, proxy: u16) -> u16 {
        self.messaging(proxy) + 2
    }

    fn controller(self, number: u16) -> u16 {
        self.0 + 1_001 + 100 * number
    }

    fn broker(self, number: u16) -> u16 {
        self.0 + 1_000 + 100 * number
    }
}

/// Runs what was asked for to its end.
pub fn run(command: &DevCommand) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&DevError::System(error)),
    };
    let end = runtime.block_on(async {
        match command {
            DevCommand::Cluster(args) => cluster(args).await,
            DevCommand::Start(args) => start_again(args).await,
        }
    });
    match end {
        Ok(code) => code,
        Err(error) => failed(&error),
    }
}

fn failed(error: &DevError) -> ExitCode {
    eprintln!("gantry: {error}");
    ExitCode::FAILURE
}

async fn cluster(args: &ClusterArgs) -> Result<ExitCode, DevError> {
    let mut signals = Signals::new().map_err(DevError::System)?;
    let data = absolute(&args.data).map_err(DevError::System)?;
    let plans = plan(args, &data)?;
    let mut running = Vec::new();
    let started = tokio::select! {
        started = start_all(&plans, &data, &mut running) => started,
        name = signals.next() => Err(DevError::Shape(format!("{name} came before everything was ready"))),
    };
    if let Err(error) = started {
        end_all(running).await;
        return Err(error);
    }
    println!("{}", Told { args, data: &data, plans: &plans });
    // Somebody who tries things out kills processes; the rest goes on.
    let name = signals.next().await;
    println!("\n{name}: the cluster stops; everything is kept in {}", data.display());
    end_all(running).await;
    Ok(ExitCode::SUCCESS)
}

/// Starts one of them in the place of this process's own work.
async fn start_again(args: &StartArgs) -> Result<ExitCode, DevError> {
    let data = absolute(&args.data).map_err(DevError::System)?;
    let file = data.join(&args.name).join("flags");
    let flags = std::fs::read_to_string(&file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            DevError::Shape(format!("there is no `{}` in `{}`; `gantry dev cluster` shows the names", args.name, data.display()))
        }
        _ => DevError::Folder { path: file.clone(), error },
    })?;
    let flags: Vec<String> = flags.lines().map(str::to_owned).collect();
    let failed = |error| DevError::Process { name: args.name.clone(), error };
    // A group of its own, so that it is told once, and by us.
    let mut child = Command::new(program()?).args(&flags).process_group(0).spawn().map_err(failed)?;
    let id = child.id().unwrap_or_default();
    write_file(&data.join(&args.name), "pid", &format!("{id}\n"))?;
    let mut signals = Signals::new().map_err(DevError::System)?;
    tokio::select! {
        ended = child.wait() => { ended.map_err(failed)?; }
        _ = signals.next() => {
            Command::new("kill").arg(id.to_string()).status().await.map_err(failed)?;
            child.wait().await.map_err(failed)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn program() -> Result<PathBuf, DevError> {
    std::env::current_exe().map_err(DevError::System)
}

/// What to start, in order.
fn plan(args: &ClusterArgs, data: &Path) -> Result<Vec<Plan>, DevError> {
    let copies = args.copies.unwrap_or(match args.brokers {
        0..=2 => args.brokers,
        _ => 3,
    });
    if ![1, 2, 3, 5].contains(&copies) || copies > args.brokers {
        let why = format!("{copies} copies on {} brokers can't be: there may be 1, 2, 3 or 5, and each needs a broker of its own", args.brokers);
        return Err(DevError::Shape(why));
    }
    let highest = 1_001 + 100 * args.brokers.max(args.controllers);
    if args.port.checked_add(highest).is_none() || args.port < 1_024 {
        return Err(DevError::Shape(format!(
            "--port {} leaves no room for the other ports; take one from 1024 to {}",
            args.port,
            u16::MAX - highest
        )));
    }
    let token = token(data)?;
    let ports = Ports(args.port);
    let controllers: Vec<String> = (0..args.controllers).map(|number| format!("127.0.0.1:{}", ports.controller(number))).collect();
    let all = |name: &str, role: &str, mut flags: Vec<String>| {
        let dir = data.join(name).join("data").display().to_string();
        let common = ["server", "--role", role, "--data", &dir, "--token", &token, "--log-level", &args.log_level, "--listen", "127.0.0.1"];
        flags.splice(0..0, common.map(str::to_owned));
        if role != "controller" || controllers.len() > 1 {
            flags.extend(["--controllers".to_owned(), controllers.join(",")]);
        }
        Plan { name: name.to_owned(), flags }
    };
    let mut plans = Vec::new();
    let say = |pairs: &[(&str, String)]| pairs.iter().flat_map(|(flag, value)| [format!("--{flag}"), value.clone()]).collect::<Vec<_>>();
    for number in 0..args.controllers {
        let mut flags = say(&[("controller-port", ports.controller(number).to_string()), ("http-port", "0".into()), ("copies", copies.to_string())]);
        if number == 0 {
            flags.extend(say(&[("bootstrap", "true".into()), ("shards", args.shards.to_string())]));
        }
        plans.push(all(&format!("controller-{}", number + 1), "controller", flags));
    }
    for number in 0..args.brokers {
        let flags =
            say(&[("broker-port", ports.broker(number).to_string()), ("http-port", "0".into()), ("zone", format!("zone-{}", number % 3 + 1))]);
        plans.push(all(&format!("broker-{}", number + 1), "broker", flags));
    }
    for number in 0..args.proxies {
        let flags = say(&[
            ("messaging-port", ports.messaging(number).to_string()),
            ("admin-port", ports.admin(number).to_string()),
            ("http-port", (ports.messaging(number) + 1).to_string()),
            ("metrics-port", (ports.messaging(number) + 3).to_string()),
        ]);
        plans.push(all(&format!("proxy-{}", number + 1), "proxy", flags));
    }
    Ok(plans)
}

/// The token of the cluster: drawn once, kept in its folder.
fn token(data: &Path) -> Result<String, DevError> {
    let path = data.join(TOKEN);
    match std::fs::read_to_string(&path) {
        Ok(token) => return Ok(token.trim().to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(DevError::Folder { path, error }),
    }
    let mut drawn = [0; 16];
    SystemChance.fill(&mut drawn);
    let token = hex::encode(drawn);
    write_file(data, TOKEN, &token)?;
    Ok(token)
}

fn write_file(dir: &Path, name: &str, text: &str) -> Result<(), DevError> {
    let disk = RealDisk::new(dir);
    let write = || {
        disk.create_dir_all(dir)?;
        write_whole(&disk, &dir.join(name), text.as_bytes())
    };
    write().map_err(|error| DevError::Folder { path: dir.join(name), error })
}

/// Starts controllers, then brokers, then proxies; those of a kind at the same time.
async fn start_all(plans: &[Plan], data: &Path, running: &mut Vec<(String, Child)>) -> Result<(), DevError> {
    let mut waiting = Vec::new();
    for plan in plans {
        waiting.push((plan.name.clone(), start(plan, data, running).await?));
        // Controllers first of all: without the first the others have nobody to join.
        if plan.name == "controller-1" {
            be_ready(&mut waiting, data).await?;
        }
    }
    be_ready(&mut waiting, data).await
}

type Lines = tokio::io::Lines<BufReader<tokio::process::ChildStdout>>;

async fn start(plan: &Plan, data: &Path, running: &mut Vec<(String, Child)>) -> Result<Lines, DevError> {
    let dir = data.join(&plan.name);
    write_file(&dir, "flags", &plan.flags.join("\n"))?;
    let failed = |error| DevError::Process { name: plan.name.clone(), error };
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).map_err(failed)?;
    // A group of its own: Ctrl-C is for this process, which then ends the others in order.
    let mut child = Command::new(program()?)
        .args(&plan.flags)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let id = child.id().unwrap_or_default();
    let out = child.stdout.take().expect("its output is piped");
    running.push((plan.name.clone(), child));
    write_file(&dir, "pid", &format!("{id}\n"))?;
    Ok(BufReader::new(out).lines())
}

/// Waits until each has said that it is ready.
async fn be_ready(waiting: &mut Vec<(String, Lines)>, data: &Path) -> Result<(), DevError> {
    for (name, mut lines) in waiting.drain(..) {
        let log = data.join(&name).join("log");
        let ready = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.contains("is ready") {
                    return true;
                }
            }
            false
        };
        match timeout(READY, ready).await {
            Ok(true) => {}
            Ok(false) => return Err(DevError::Ended { name, log }),
            Err(_) => return Err(DevError::Slow { name, log }),
        }
        // What else it says is for nobody; the pipe must not become full.
        gantry_platform::tasks::spawn("output of a process", async move { while let Ok(Some(_)) = lines.next_line().await {} });
    }
    Ok(())
}

/// Ends proxies, then brokers, then controllers, those of a kind one after the other, as a careful operator would.
async fn end_all(mut running: Vec<(String, Child)>) {
    while let Some((name, mut child)) = running.pop() {
        let Some(id) = child.id().filter(|_| matches!(child.try_wait(), Ok(None))) else { continue };
        print!("  {name} ends ... ");
        _ = io::stdout().flush();
        let told = Command::new("kill").arg(id.to_string()).status().await;
        match (told, timeout(END, child.wait()).await) {
            (Ok(_), Ok(Ok(status))) => println!("{}", if status.success() { "done" } else { "done, but not in order; look at its log" }),
            _ => {
                _ = child.kill().await;
                println!("killed after {END:?}");
            }
        }
        sleep(Duration::ZERO).await;
    }
}

/// What the person at the terminal reads.
struct Told<'a> {
    args: &'a ClusterArgs,
    data: &'a Path,
    plans: &'a [Plan],
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Told { args, data, plans } = self;
        let ports = Ports(args.port);
        writeln!(f, "A cluster of {} processes is ready.\n", plans.len())?;
        for number in 0..args.proxies {
            let (messaging, admin) = (ports.messaging(number), ports.admin(number));
            writeln!(f, "  proxy-{}       127.0.0.1:{messaging}  RocketMQ 5 clients; admin at 127.0.0.1:{admin}", number + 1)?;
        }
        for number in 0..args.brokers {
            writeln!(f, "  broker-{}      127.0.0.1:{}", number + 1, ports.broker(number))?;
        }
        for number in 0..args.controllers {
            writeln!(f, "  controller-{}  127.0.0.1:{}", number + 1, ports.controller(number))?;
        }
        let folder = data.display();
        writeln!(f, "\n  data and logs  {folder}/<name>/log, process ids in {folder}/<name>/pid\n")?;
        writeln!(f, "Try it in another terminal:")?;
        writeln!(f, "  echo hello | gantry produce demo --endpoint 127.0.0.1:{}", ports.messaging(0))?;
        writeln!(f, "  gantry consume demo --group demo-group --endpoint 127.0.0.1:{}", ports.messaging(args.proxies - 1))?;
        writeln!(f, "  kill -9 $(cat {folder}/broker-1/pid)     what it led is led by others within two seconds")?;
        writeln!(f, "  gantry dev start broker-1 --data {folder}")?;
        write!(f, "\nCtrl-C ends it in order.")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(brokers: u16, copies: Option<u16>, port: u16) -> ClusterArgs {
        let data = PathBuf::from("d");
        ClusterArgs { data, controllers: 3, brokers, proxies: 2, shards: 4, copies, port, log_level: "info".into() }
    }

    #[test]
    fn every_process_has_ports_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let plans = plan(&args(16, None, 8081), dir.path()).unwrap();
        assert_eq!(plans.len(), 21);
        let mut ports: Vec<&String> = plans
            .iter()
            .flat_map(|plan| plan.flags.windows(2).filter(|pair| pair[0].ends_with("-port") && pair[1] != "0").map(|pair| &pair[1]))
            .collect();
        let all = ports.len();
        ports.sort();
        ports.dedup();
        assert_eq!((ports.len(), all), (3 + 16 + 2 * 4, 3 + 16 + 2 * 4));
    }

    #[test]
    fn what_can_not_be_is_refused_with_the_reason() {
        let dir = tempfile::tempdir().unwrap();
        let why = |args: &ClusterArgs| plan(args, dir.path()).unwrap_err().to_string();
        assert!(why(&args(2, Some(3), 8081)).starts_with("3 copies on 2 brokers can't be"));
        assert!(why(&args(5, Some(4), 8081)).starts_with("4 copies on 5 brokers can't be"));
        assert!(why(&args(3, None, 65_000)).contains("leaves no room"));
    }

    #[test]
    fn the_token_is_drawn_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = token(dir.path()).unwrap();
        assert_eq!((first.len(), token(dir.path()).unwrap()), (32, first));
    }
}
