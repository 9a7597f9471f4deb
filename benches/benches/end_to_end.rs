//! Prefill and decode of the demo model, through the same path as `hetero run`.

use std::path::Path;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hetero_core::WeightFormat;
use hetero_llama::{CancelToken, Model, ModelOptions, ModelSource, Session};

fn end_to_end(criterion: &mut Criterion) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/hetero-cli/demo-model");
    let cancel = CancelToken::default();
    for weights in [WeightFormat::Bf16, WeightFormat::W4G32] {
        let options = ModelOptions { weights: Some(weights), ..ModelOptions::default() };
        let model = Model::load(ModelSource::Folder(folder.clone()), &options, &mut |_| {}).expect("the demo model");
        let mut session = Session::new(&model).expect("a session");
        let prompt: Vec<u32> = (0..256).map(|i| i * 13 % 4000 + 10).collect();
        let mut group = criterion.benchmark_group(format!("demo model/{weights}"));
        group.throughput(Throughput::Elements(prompt.len() as u64));
        group.bench_function("prefill 256", |bencher| {
            bencher.iter(|| {
                session.truncate(0);
                session.feed(&prompt, &cancel).expect("a prompt that fits");
            });
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function("decode after 256", |bencher| {
            bencher.iter(|| {
                session.truncate(prompt.len());
                session.feed(&prompt[..1], &cancel).expect("a token that fits");
            });
        });
        group.finish();
        drop(session);
        drop(Arc::into_inner(model));
    }
}

criterion_group!(benches, end_to_end);
criterion_main!(benches);
