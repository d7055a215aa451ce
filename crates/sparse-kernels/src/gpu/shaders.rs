//! The texts of the shaders. Each is a file behind the shared ones that it builds on.

macro_rules! shaders {
    ($($name:ident: $($file:literal)+;)+) => {
        $(
            #[allow(dead_code, reason = "some are for a feature only")]
            pub const $name: &str =
                concat!($(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/shaders/", $file)),)+);
        )+
        /// The files of each text, in order, and the text.
        #[allow(dead_code, reason = "for the test that validates them")]
        pub const ALL: &[(&[&str], &str)] = &[$((&[$($file),+], $name)),+];
    };
}

shaders! {
    ADAM: "adam.wgsl";
    ADAM_OWN: "adam_own.wgsl";
    ADD: "add.wgsl";
    ATTENTION: "attention.wgsl";
    BATCH_NORM: "shared/images.wgsl" "batch_norm.wgsl";
    BIAS_RELU: "bias_relu.wgsl";
    BLOCK_NORMS: "block_norms.wgsl";
    CONV_DENSE: "shared/conv_points.wgsl" "shared/conv_columns.wgsl" "shared/conv_load.wgsl" "conv_dense.wgsl";
    CONV_DENSE_GRAD: "shared/conv_points.wgsl" "shared/conv_grad.wgsl" "conv_dense_grad.wgsl";
    CONV_DEPTHWISE: "shared/conv_points.wgsl" "conv_depthwise.wgsl";
    CONV_DEPTHWISE_GRAD: "shared/conv_points.wgsl" "shared/conv_grad.wgsl" "shared/conv_grad_columns.wgsl"
        "shared/conv_load.wgsl" "conv_depthwise_grad.wgsl";
    CONV_SPARSE: "shared/conv_points.wgsl" "shared/conv_columns.wgsl" "shared/conv_load.wgsl" "conv_sparse.wgsl";
    CONV_SPARSE_GRAD: "shared/conv_points.wgsl" "shared/conv_grad.wgsl" "shared/conv_grad_columns.wgsl"
        "shared/conv_load.wgsl" "conv_sparse_grad.wgsl";
    CLIP: "clip.wgsl";
    CONVERT: "convert.wgsl";
    DROPOUT: "dropout.wgsl";
    EMBED: "embed.wgsl";
    FEATURE_NORM: "feature_norm.wgsl";
    FILL: "fill.wgsl";
    GATHER: "gather.wgsl";
    GELU: "gelu.wgsl";
    GEMM: "gemm.wgsl";
    GROUP_SUM: "subgroups/group_sum.wgsl";
    GRU: "shared/recurrent.wgsl" "gru.wgsl";
    IMAGES: "shared/images.wgsl" "images.wgsl";
    LSTM: "shared/recurrent.wgsl" "lstm.wgsl";
    POINTWISE_LOSS: "pointwise_loss.wgsl";
    POOL: "shared/images.wgsl" "pool.wgsl";
    PROBE: "subgroups/probe.wgsl";
    SDDMM: "sddmm.wgsl";
    SDDMM_BSR: "sddmm_bsr.wgsl";
    SELECT: "select.wgsl";
    SGD: "sgd.wgsl";
    SOFTMAX_CROSS_ENTROPY: "softmax_cross_entropy.wgsl";
    SPMM: "spmm.wgsl";
    SPMM_BSR: "spmm_bsr.wgsl";
    SUM_PARTIALS: "sum_partials.wgsl";
    SUM_PARTS: "sum_parts.wgsl";
    WIDEN: "widen.wgsl";
}
