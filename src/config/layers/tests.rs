use super::*;
use crate::spec::device::Device;

fn defaults() -> Loaded {
    load(None, [], &[]).unwrap()
}

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn faults(result: Result<Loaded, ConfigError>) -> Vec<Fault> {
    match result.unwrap_err() {
        ConfigError::Invalid(faults) => faults,
        other => panic!("{other}"),
    }
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn the_compiled_in_defaults_are_valid() {
    let loaded = defaults();
    assert_eq!(loaded.config.http.max_body_bytes, 1 << 20);
    assert_eq!(loaded.config.model.reference, "smollm2-135m");
    assert_eq!(loaded.config.limits.prompt_bytes, 65_536);
    assert_eq!(loaded.sources, Sources::default());
}

#[test]
fn every_key_of_the_defaults_has_a_comment() {
    let lines: Vec<&str> = DEFAULT_TOML.lines().collect();
    for (i, line) in lines.iter().enumerate() {
        let in_commented_section =
            line.contains("= ") && lines[..i].iter().rev().take(4).any(|l| l.starts_with('#'));
        assert!(!line.contains(" = ") || line.starts_with('#') || in_commented_section, "{line}");
    }
}

#[test]
fn every_shipped_file_is_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let mut found: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    let configs: Vec<_> = found.iter().map(|path| load(Some(path), [], &[]).unwrap().config).collect();
    let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let listed = ["default", "lab-70b-2xh200", "lab-70b-8xh100", "laptop", "one-gpu", "quickstart"];
    assert_eq!(names, listed.map(|name| format!("{name}.toml")));
    let devices: Vec<_> = configs.iter().map(|config| config.engine.devices()).collect();
    let gpus = |n: u32| (0..n).map(Device::Cuda).collect::<Vec<_>>();
    let cpu = vec![Device::Cpu];
    assert_eq!(devices, [cpu.clone(), gpus(2), gpus(8), cpu.clone(), gpus(1), cpu]);
    for config in &configs {
        assert!(config.http.listen.starts_with("127.0.0.1:"), "without keys only this machine may ask");
    }
}

#[test]
fn devices_are_named_one_kind_at_a_time_and_each_gpu_once() {
    let devices = |text: &str| load(None, env(&[("MEDIANT__ENGINE__DEVICES", text)]), &[]);
    assert_eq!(devices("cpu,cpu").unwrap().config.engine.devices(), [Device::Cpu; 2]);
    assert_eq!(devices("cuda:1, cuda:0").unwrap().config.engine.devices(), [1, 0].map(Device::Cuda));
    assert_eq!(
        devices("").unwrap().config.engine.devices(),
        [Device::Cpu],
        "GPUs are used only when they are named"
    );
    for (wrong, why) in [
        ("gpu0", "`gpu0` is no device"),
        ("cpu,cuda:0", "CPUs beside GPUs"),
        ("cuda:1,cuda:0,cuda:1", "cuda:1 is named twice"),
    ] {
        let fault = &faults(devices(wrong))[0];
        assert!(fault.key == "engine.devices" && fault.detail.contains(why), "{fault}");
    }
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let file = file("[http]\nlisten = '127.0.0.1:1'\n[model]\nref = 'from-file'\n[limits]\nsamples = 5\n");
    let vars =
        env(&[("MEDIANT__HTTP__LISTEN", "127.0.0.1:2"), ("MEDIANT__MODEL__REF", "from-env"), ("PATH", "x")]);
    let flags = [("--listen", "http.listen", "127.0.0.1:3".to_owned())];
    let loaded = load(Some(file.path()), vars, &flags).unwrap();
    assert_eq!(loaded.config.http.listen, "127.0.0.1:3");
    assert_eq!(loaded.config.model.reference, "from-env");
    assert_eq!(loaded.config.limits.samples, 5);
    assert_eq!(loaded.config.limits.cells, defaults().config.limits.cells);
    assert_eq!(loaded.sources.of("http.listen"), Source::Flag("--listen"));
    assert_eq!(loaded.sources.of("model.ref"), Source::Env("MEDIANT__MODEL__REF".into()));
    assert_eq!(loaded.sources.of("limits.samples"), Source::File(file.path().into()));
    assert_eq!(loaded.sources.of("limits.cells"), Source::Default);
}

#[test]
fn environment_text_takes_the_type_of_its_key() {
    let vars = env(&[
        ("MEDIANT__MODEL__WHEEL__VERSION", "0.2"),
        ("MEDIANT__HTTP__BODY_TIMEOUT_S", "2"),
        ("MEDIANT__TELEMETRY__JSON", "true"),
        ("MEDIANT__HTTP__CORS_ORIGINS", "https://a.example, http://b.example:81"),
        ("MEDIANT__LIMITS__CELLS", "1_000"),
    ]);
    let config = load(None, vars, &[]).unwrap().config;
    assert_eq!(config.model.wheel.version, "0.2");
    assert!((config.http.body_timeout_s - 2.0).abs() < 1e-12);
    assert!(config.telemetry.json);
    assert_eq!(config.http.cors_origins, ["https://a.example", "http://b.example:81"]);
    assert_eq!(config.limits.cells, 1000);
}

#[test]
fn all_unknown_keys_and_bad_values_are_reported_at_once_with_key_source_and_fix() {
    let file = file("[http]\nlisen = 'x'\nmax_body_bytes = 'big'\n[limits]\nsamples = -1\n[colour]\nx = 1\n");
    let vars = env(&[("MEDIANT__MODEL__DTYPE", "f64"), ("MEDIANT__LIMITS__CELLS", "many")]);
    let found = faults(load(Some(file.path()), vars, &[]));
    let fault =
        |key: &str| found.iter().find(|f| f.key == key).unwrap_or_else(|| panic!("{key} in {found:?}"));
    assert_eq!(found.len(), 6, "{found:#?}");
    assert_eq!(fault("http.lisen").fix, "did you mean http.listen?");
    assert_eq!(fault("http.lisen").source, Source::File(file.path().into()));
    assert!(fault("http.max_body_bytes").detail.contains("not a whole number"));
    assert!(fault("limits.samples").detail.contains("-1"), "{:?}", fault("limits.samples"));
    assert!(fault("colour.x").fix.contains("check-config"));
    assert!(fault("model.dtype").detail.contains("f64") && fault("model.dtype").detail.contains("bf16"));
    assert_eq!(fault("model.dtype").source, Source::Env("MEDIANT__MODEL__DTYPE".into()));
    assert!(fault("limits.cells").detail.contains("`many`"));
}

#[test]
fn values_out_of_range_are_reported_at_once() {
    let file = file(
        "[http]\nlisten = 'nowhere'\nheader_timeout_s = 0\nbody_timeout_s = nan\nmax_connections = 0\nconnections_per_address = 0\n\
         cors_origins = ['lab.example', '*']\n[model]\nref = ' '\n[model.wheel]\nsha256 = 'abc'\nname = '--index-url'\n\
         [limits]\nqueue_depth = 0\nowner_requests = 0\nmemory_bytes = 4096\n[auth]\nfailed_per_s = 0\n\
         [activations]\nttl_max_s = 60\nupload_bytes = 1\nsweep_interval_s = 0\n[telemetry]\nfilter = 'mediant=loud'\n",
    );
    let keys: Vec<String> = faults(load(Some(file.path()), [], &[])).into_iter().map(|f| f.key).collect();
    assert_eq!(
        keys,
        [
            "http.listen",
            "http.header_timeout_s",
            "http.body_timeout_s",
            "http.max_connections",
            "http.connections_per_address",
            "http.cors_origins",
            "http.cors_origins",
            "model.ref",
            "model.wheel.name",
            "model.wheel.sha256",
            "limits.queue_depth",
            "limits.owner_requests",
            "auth.failed_per_s",
            "limits.memory_bytes",
            "activations.upload_bytes",
            "activations.sweep_interval_s",
            "activations.ttl_default_s",
            "telemetry.filter",
        ]
    );
}

#[test]
fn a_named_file_that_is_absent_or_broken_is_an_error() {
    let absent = load(Some(Path::new("/no/such/mediant.toml")), [], &[]);
    assert!(matches!(absent, Err(ConfigError::Read { .. })));
    let broken = file("[http\nlisten = 1");
    let error = load(Some(broken.path()), [], &[]).unwrap_err();
    assert!(matches!(error, ConfigError::Syntax { .. }));
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn the_printed_configuration_is_itself_a_valid_file_of_the_same_values() {
    let flags = [("--model", "model.ref", "dummy:tiny".to_owned())];
    let loaded = load(None, [], &flags).unwrap();
    let printed = loaded.to_string();
    assert!(printed.contains("ref = \"dummy:tiny\"  # flag --model"), "{printed}");
    assert_eq!(load(Some(file(&printed).path()), [], &[]).unwrap().config, loaded.config);
}
