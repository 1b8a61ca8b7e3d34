//! The plan as text.

use super::advice::Urgency;
use super::decide::{Plan, Role};
use super::facts::{Facts, Interface};
use std::fmt::Write as _;

/// Facts, decisions, advice.
#[must_use]
pub fn text(facts: &Facts, plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _written = write(&mut out, facts, plan);
    out
}

fn write(out: &mut String, facts: &Facts, plan: &Plan) -> std::fmt::Result {
    machine(out, facts)?;
    for interface in &facts.interfaces {
        let port = plan.ports.iter().find(|port| port.interface == interface.name);
        let role = match port.map(|port| port.role) {
            Some(Role::Wan) => "WAN port",
            Some(Role::Lan) => "LAN port",
            Some(Role::Candidate) | None => "interface",
        };
        writeln!(out, "\n{role} {}", interface.name)?;
        one_interface(out, interface)?;
        if let Some(port) = port {
            writeln!(out, "  expected    XDP {:?}, AF_XDP {:?}: {}", port.xdp, port.af_xdp, port.why)?;
        }
    }
    writeln!(out, "\nThe data plane will")?;
    for (index, seat) in plan.workers.iter().enumerate() {
        let node = seat.node.map_or(String::new(), |node| format!(", memory on node {node}"));
        writeln!(
            out,
            "  run worker {index} on CPU {}, for queue {} of each interface{node}",
            seat.cpu, seat.queue
        )?;
    }
    let pages = if plan.huge_pages { "huge pages" } else { "ordinary pages" };
    writeln!(out, "  keep {} MiB of frames in {pages}", plan.umem_octets >> 20)?;
    match plan.tuning.busy_poll {
        0 => writeln!(
            out,
            "  sleep when there is nothing to do (busy_poll = 0), batches of {}",
            plan.tuning.batch
        )?,
        us => writeln!(out, "  poll {us} µs before it sleeps, batches of {}", plan.tuning.batch)?,
    }
    for setting in &plan.settings {
        writeln!(out, "  set at its start, if the driver lets it: {}", setting.command())?;
    }
    if plan.advice.is_empty() {
        return writeln!(out, "\nNothing to change.");
    }
    writeln!(out, "\nTo change")?;
    for advice in &plan.advice {
        let urgency = match advice.urgency {
            Urgency::Must => "must  ",
            Urgency::Should => "should",
            Urgency::May => "may   ",
        };
        writeln!(out, "  {urgency}  {}", advice.what)?;
        for command in &advice.commands {
            writeln!(out, "            {command}")?;
        }
    }
    Ok(())
}

fn machine(out: &mut String, facts: &Facts) -> std::fmt::Result {
    writeln!(out, "Machine")?;
    writeln!(out, "  kernel      {}", facts.kernel)?;
    let isolated =
        if facts.cpus.isolated.is_empty() { "none".to_owned() } else { list(&facts.cpus.isolated) };
    writeln!(out, "  CPUs        {}, isolated: {isolated}", list(&facts.cpus.allowed))?;
    for node in &facts.cpus.nodes {
        writeln!(out, "  NUMA node   {}: CPUs {}", node.id, list(&node.cpus))?;
    }
    for threads in &facts.cpus.siblings {
        writeln!(out, "  one core    CPUs {}", list(threads))?;
    }
    match facts.huge_pages {
        Some(pool) => {
            writeln!(out, "  huge pages  {} of {} KiB, {} free", pool.total, pool.size_kib, pool.free)?;
        }
        None => writeln!(out, "  huge pages  unknown")?,
    }
    let limit = facts
        .memory_lock
        .limit_octets
        .map_or_else(|| "unlimited".to_owned(), |octets| format!("{octets} octets"));
    let capability = if facts.memory_lock.cap_ipc_lock { "CAP_IPC_LOCK held" } else { "no CAP_IPC_LOCK" };
    writeln!(out, "  memlock     {limit}, {capability}")?;
    writeln!(
        out,
        "  busy poll   net.core.busy_poll {}, net.core.busy_read {}",
        or_unknown(facts.busy_poll.busy_poll),
        or_unknown(facts.busy_poll.busy_read)
    )?;
    writeln!(out, "  bpffs       {}", if facts.bpffs { "mounted" } else { "not mounted" })
}

fn one_interface(out: &mut String, interface: &Interface) -> std::fmt::Result {
    let driver = interface.driver.as_deref().unwrap_or("unknown");
    let node = or_unknown(interface.numa_node);
    writeln!(out, "  driver      {driver}, MTU {}, NUMA node {node}", interface.mtu)?;
    let channels = interface.channels.map_or_else(
        || "the driver does not say".to_owned(),
        |c| format!("combined {} of {}, receive {} of {}", c.combined, c.max_combined, c.rx, c.max_rx),
    );
    writeln!(
        out,
        "  queues      {} receive, {} transmit; channels: {channels}",
        interface.rx_queues, interface.tx_queues
    )?;
    let ports = |known: Option<bool>| match known {
        Some(true) => "with ports",
        Some(false) => "addresses only",
        None => "the driver does not say",
    };
    let (udp4, udp6) = (ports(interface.rss.udp4_ports), ports(interface.rss.udp6_ports));
    writeln!(out, "  RSS         udp4 {udp4}, udp6 {udp6}")?;
    for irq in &interface.irqs {
        writeln!(out, "  IRQ {:<7} {} on CPUs {}", irq.number, irq.name, list(&irq.affinity))?;
    }
    if interface.irqs.is_empty() {
        writeln!(out, "  IRQs        none of its own")?;
    }
    writeln!(
        out,
        "  polling     napi_defer_hard_irqs {}, gro_flush_timeout {} ns",
        or_unknown(interface.napi_defer_hard_irqs),
        or_unknown(interface.gro_flush_timeout_ns)
    )?;
    writeln!(out, "  XDP now     {}", interface.xdp.as_deref().unwrap_or("none"))
}

fn or_unknown<N: ToString>(value: Option<N>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

fn list(numbers: &[usize]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut rest = numbers;
    while let Some((&first, _)) = rest.split_first() {
        let run = rest.iter().enumerate().take_while(|&(step, &number)| number == first + step).count();
        let last = first + run - 1;
        parts.push(if last == first { first.to_string() } else { format!("{first}-{last}") });
        rest = rest.get(run..).unwrap_or_default();
    }
    if parts.is_empty() { "none".to_owned() } else { parts.join(",") }
}
