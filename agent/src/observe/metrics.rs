//! The metrics of flows, and the registry that every stage puts its own into.

use std::collections::BTreeSet;
use std::error::Error;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use super::access::AccessLog;
use super::along::{HttpMetrics, ReadHttp};
use super::edges::EdgeView;
use super::flow::{OpenFlow, millis};
use super::labels::{FlowLabels, Party, Reporter};
use super::open::{FlowsView, Open};
use super::reason::Reason;
use super::series::{self, Rest, SeriesSettings, Table};
use super::settings::Settings;
use super::traces::{Trace, Traces};
use super::trouble::Troubles;

/// Long enough for the last scrape to have seen the last count, also of who scrapes each minute.
const REST: Rest = Rest { departed: Duration::from_mins(5), crowded: Duration::from_hours(1) };

/// The agent's metrics. Cheap to clone; all clones count into the same.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

pub(super) struct Inner {
    registry: Registered,
    pub(super) series: Table,
    series_held: IntGauge,
    pub(super) flows: Open,
    pub(super) failures: IntCounterVec,
    pub(super) open: IntGaugeVec,
    decisions: IntCounterVec,
    pub(super) access: AccessLog,
    pub(super) troubles: Troubles,
    pub(super) read_http: ReadHttp,
    pub(super) http: HttpMetrics,
    pub(super) traces: OnceLock<Traces>,
}

/// Two collectors want one name, or a name or label is malformed.
#[derive(Debug, thiserror::Error)]
#[error("cannot register {name}; each metric is registered once, under a name of its own")]
pub struct RegisterError {
    name: String,
    #[source]
    source: prometheus::Error,
}

/// The registry's content could not be written as text.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the metrics as text; a collector gave a family without a value")]
pub struct EncodeError(#[source] prometheus::Error);

impl Metrics {
    /// A registry with the flow metrics and `culvert_build_info` in it. HTTP is read in passing
    /// wherever it is.
    ///
    /// # Errors
    ///
    /// [`RegisterError`]; not with the definitions below, which a test holds.
    pub fn new() -> Result<Self, RegisterError> {
        Self::with(Settings::default())
    }

    /// As [`Self::new`], with settings of its own.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub fn with(settings: Settings) -> Result<Self, RegisterError> {
        let registry = Registered::default();
        let build =
            registry.gauges("culvert_build_info", "The agent's build; always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let unlogged = registry.counters(
            "culvert_observe_unlogged_total",
            "Ends of connections that wrote no line of the access log, by why not.",
            &["direction", "cause"],
        )?;
        let troubles = registry.counters(
            "culvert_observe_troubles_total",
            "Troubles of local workloads, by whether they were raised, held back because the same \
             was told in the last five minutes, or dropped.",
            &["result"],
        )?;
        // Where Istio's dashboards look for the version of what carries the mesh.
        let istio = registry.gauges(
            "istio_build",
            "The agent's build under Istio's name; always 1.",
            &["component", "tag"],
        )?;
        istio
            .with_label_values(&["ztunnel", concat!("culvert-", env!("CARGO_PKG_VERSION"))])
            .set(1);
        let held = registry.plain_gauge(
            "culvert_observe_series",
            "Sets of labels that flows are counted under.",
        )?;
        let overflow = registry.counter(
            "culvert_observe_series_overflow_total",
            "Flows counted together because observe.maxSeries sets of labels were there.",
        )?;
        let inner = Inner {
            series: Table::new(overflow),
            series_held: held,
            flows: Open::new(),
            failures: registry.counters(
                "culvert_flow_failures_total",
                "Flows that ended otherwise than cleanly or never began, by reason.",
                &["direction", "reason"],
            )?,
            open: registry.gauges("culvert_flow_open", "Flows open now.", &["direction"])?,
            decisions: registry.counters(
                "culvert_policy_decisions_total",
                "Decisions of policy over new flows, and the kind of rule that decided.",
                &["direction", "decision", "kind"],
            )?,
            access: AccessLog::new(settings.access_log, unlogged),
            troubles: Troubles::new(troubles),
            read_http: settings.http,
            traces: OnceLock::new(),
            http: HttpMetrics::new(&registry)?,
            registry,
        };
        for name in series::names() {
            inner.registry.name(name);
        }
        for reporter in [Reporter::Source, Reporter::Destination] {
            // Present from the start, so that an alert on them can tell zero from absent.
            inner.open.with_label_values(&[reporter.direction()]);
        }
        Ok(Self(Arc::new(inner)))
    }

    /// Makes and registers a family of counters with these labels, for a stage of its own.
    ///
    /// # Errors
    ///
    /// As [`Metrics::register`].
    pub fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, RegisterError> {
        self.0.registry.counters(name, help, labels)
    }

    /// Makes and registers a gauge without labels.
    ///
    /// # Errors
    ///
    /// As [`Metrics::register`].
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, RegisterError> {
        self.0.registry.plain_gauge(name, help)
    }

    /// Makes and registers a family of gauges with these labels, for a stage of its own.
    ///
    /// # Errors
    ///
    /// As [`Metrics::register`].
    pub fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, RegisterError> {
        self.0.registry.gauges(name, help, labels)
    }

    /// Makes and registers a histogram with these buckets.
    ///
    /// # Errors
    ///
    /// As [`Metrics::register`].
    pub fn histogram(
        &self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, RegisterError> {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options)
            .map_err(|source| RegisterError { name: name.to_owned(), source })?;
        self.0.registry.register(histogram.clone())?;
        Ok(histogram)
    }

    /// The registry itself, for a stage that registers its collectors there.
    ///
    /// What is registered so is in [`Metrics::names`] only once it has a value.
    pub fn registry(&self) -> &Registry {
        &self.0.registry.registry
    }

    /// Adds a stage's own collector. Its name begins with `culvert_`, is described in
    /// `docs/metrics.md`, and stays for the life of the agent.
    ///
    /// # Errors
    ///
    /// [`RegisterError`] when the name is taken.
    pub fn register<C: Collector + 'static>(&self, collector: C) -> Result<(), RegisterError> {
        self.0.registry.register(collector)
    }

    /// The name of every registered family, used or not, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names =
            self.0.registry.names.lock().unwrap_or_else(PoisonError::into_inner).clone();
        names.extend(self.registry().gather().iter().map(|family| family.name().to_owned()));
        names.into_iter().collect()
    }

    /// All metrics in Prometheus' text format.
    ///
    /// # Errors
    ///
    /// [`EncodeError`] when a collector is broken.
    pub fn encode(&self) -> Result<String, EncodeError> {
        self.0.series_held.set(i64::try_from(self.0.series.len()).unwrap_or(i64::MAX));
        let mut text =
            TextEncoder::new().encode_to_string(&self.registry().gather()).map_err(EncodeError)?;
        series::encode(&self.0.series.all(), &mut text);
        Ok(text)
    }

    /// From now on spans are recorded. A second call changes nothing.
    pub(super) fn record(&self, traces: Traces) {
        // Metrics of one name cannot be registered twice, so nobody comes here twice.
        let _ = self.0.traces.set(traces); // reason: see above
    }

    /// Whether the flow with this random number is to be recorded as spans.
    pub fn draws(&self, random: u32) -> bool {
        self.0.traces.get().is_some_and(|traces| traces.draws(random))
    }

    /// Counts a flow as opened and begins to count its bytes.
    #[must_use = "a flow that is dropped counts as abandoned; close it with its reason"]
    pub fn open(&self, labels: FlowLabels) -> OpenFlow {
        OpenFlow::new(Arc::clone(&self.0), labels)
    }

    /// Sets how many series of flows there may be and what they say of where they are. Only the
    /// first call does, and only before the first flow.
    pub fn set_series(&self, settings: SeriesSettings) {
        self.0.series.set(settings);
    }

    /// Takes away series that nothing is counted in any more: those of a workload that is gone,
    /// some minutes after their last flow.
    ///
    /// `lives` says whether a workload, by its namespace and the name that the metrics have, is
    /// still there.
    pub fn retire_series(&self, lives: impl Fn(&str, &str) -> bool) {
        self.0.series.retire(REST, millis(SystemTime::now()), &|party: &Party| {
            match (party.namespace(), party.workload_name()) {
                (Some(namespace), Some(workload)) => lives(namespace, workload),
                // Nobody can leave whom nobody knows.
                _ => true,
            }
        });
    }

    /// The flows that are open now, at most the latest `limit` of them.
    pub fn flows(&self, limit: usize) -> FlowsView {
        self.0.flows.view(limit)
    }

    /// Who talked to whom, one view for each series of flows, in no order.
    pub fn edges(&self) -> Vec<EdgeView> {
        self.0.series.all().iter().map(|series| EdgeView::of(series)).collect()
    }

    /// Counts and logs a flow that was refused or failed as soon as it came.
    ///
    /// The same as opening and closing it: opened, closed and failed all rise. At most a hundred
    /// lines a second, together with [`Self::fail_early`]; the rest is only counted.
    pub fn refuse(&self, labels: FlowLabels, reason: Reason, error: &(dyn Error + 'static)) {
        self.refuse_traced(labels, None, reason, error);
    }

    /// The same, of a flow whose span is to be recorded there.
    pub fn refuse_traced(
        &self,
        labels: FlowLabels,
        trace: Option<Trace>,
        reason: Reason,
        error: &(dyn Error + 'static),
    ) {
        self.open(labels).traced(trace).refuse(reason, error);
    }

    /// Counts and logs a connection that failed before it was known which flow it carries: a
    /// handshake that was not completed, an original destination that was lost. `labels` say what
    /// its addresses tell.
    ///
    /// At most a hundred lines a second; the rest is only counted.
    pub fn fail_early(&self, labels: &FlowLabels, reason: Reason, error: &(dyn Error + 'static)) {
        let direction = labels.reporter.direction();
        self.0.failures.with_label_values(&[direction, reason.label()]).inc();
        self.0.access.failed_early(labels, reason, error);
        self.0.troubles.failed(labels, reason, Some(error));
    }

    /// Counts what policy decided of a flow, and which kind of rule did: closed sets of words.
    pub fn decided(&self, reporter: Reporter, [decision, kind]: [&'static str; 2]) {
        self.0.decisions.with_label_values(&[reporter.direction(), decision, kind]).inc();
    }

    pub(super) fn troubles_of(&self) -> &Troubles {
        &self.0.troubles
    }
}

/// A registry that knows the names in it.
#[derive(Default)]
pub(super) struct Registered {
    registry: Registry,
    // Guards the names of what is in `registry`, which the registry itself does not tell before a
    // child of a family is used. Held only for an insertion or a copy.
    names: Mutex<BTreeSet<String>>,
}

impl Registered {
    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntCounterVec, RegisterError> {
        let family = IntCounterVec::new(Opts::new(name, help), labels)
            .map_err(|source| RegisterError { name: name.to_owned(), source })?;
        self.register(family.clone())?;
        Ok(family)
    }

    fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> Result<IntGaugeVec, RegisterError> {
        let family = IntGaugeVec::new(Opts::new(name, help), labels)
            .map_err(|source| RegisterError { name: name.to_owned(), source })?;
        self.register(family.clone())?;
        Ok(family)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, RegisterError> {
        let counter = IntCounter::new(name, help)
            .map_err(|source| RegisterError { name: name.to_owned(), source })?;
        self.register(counter.clone())?;
        Ok(counter)
    }

    fn plain_gauge(&self, name: &str, help: &str) -> Result<IntGauge, RegisterError> {
        let gauge = IntGauge::new(name, help)
            .map_err(|source| RegisterError { name: name.to_owned(), source })?;
        self.register(gauge.clone())?;
        Ok(gauge)
    }

    /// Adds the name of a family that is not in the registry itself.
    fn name(&self, name: &str) {
        self.names.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }

    pub(super) fn register<C: Collector + 'static>(
        &self,
        collector: C,
    ) -> Result<(), RegisterError> {
        let names: Vec<_> = collector.desc().iter().map(|desc| desc.fq_name.clone()).collect();
        let name = names.first().cloned().unwrap_or_default();
        self.registry
            .register(Box::new(collector))
            .map_err(|source| RegisterError { name, source })?;
        self.names.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
        Ok(())
    }
}
