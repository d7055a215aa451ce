//! Plans of a CPU, and operations that do nothing.

use std::ops::Range;
use std::sync::Arc;

use super::{Entered, Ledger};
use crate::backend::check::{Checked, Done, WeightGrad};
use crate::backend::linear::{Found, Pairs};
use crate::backend::{NormGrad, NormInput, Pool, Rows};
use crate::cpu::Cpu;
use crate::cpu::conv::{scratch_lens, window_len};
use crate::random::Key;
use crate::{
    Accumulate, Activation, AdamStep, Attention, AttentionGrad, BackendError, BatchNorm, BatchNormOptions,
    BlockConvWeight, BlockMatrix, BlockSparseConv, BlockSparseLinear, BsrPattern, ColumnIndex, ConvOptions, ConvShape,
    ConvWeight, CrossEntropy, Csr, CsrPattern, DenseConv, DenseLinear, FeatureNorm, Gelu, GrowRequest, GruStep,
    GruStepGrad, ImageNeural, Images, Lists, LstmStep, LstmStepGrad, Neural, NormKind, Op, Optimizer, PlanOptions,
    PointwiseLoss, PoolShape, Precision, Recurrent, ReluMask, SequenceNeural, SgdStep, SparseConv, SparseLinear,
    SparseMatrix, Steps, Storage, Strips,
};

/// Hooks that do nothing and succeed, each with the types of its arguments.
macro_rules! nothing {
    ($($name:ident($($argument:ty),* $(,)?);)*) => {
        $(fn $name(&self, $(_: $argument),*) -> Done {
            Ok(())
        })*
    };
}

/// Growth that finds nothing.
macro_rules! nowhere {
    ($($name:ident($($argument:ty),* $(,)?);)*) => {
        $(fn $name(&self, $(_: $argument),*) -> Found {
            Ok(vec![])
        })*
    };
}

impl Ledger {
    /// Borrows what a convolution's weight gradient does, and returns it.
    fn borrow_for_weight_grad(
        &self,
        shape: ConvShape,
        [x, dy]: [&Images<Self>; 2],
        values: &Entered,
        in_tiles: bool,
    ) -> Done {
        let half = [x, dy].map(|images| images.data.precision == Precision::Bf16);
        self.hold_windows(window_len(&self.cpu, shape, [x.layout, dy.layout], half, in_tiles));
        let lens = scratch_lens(shape, x.layout, dy.layout, values.len);
        let lent = lens.map(|len| self.lend(len));
        lent.into_iter().try_for_each(|lent| lent.map(|lent| self.give_back(lent)))
    }
}

impl SparseLinear for Ledger {
    const TAKES_16_BITS: bool = <Cpu as SparseLinear>::TAKES_16_BITS;
    type Plan = <Cpu as SparseLinear>::Plan;

    fn plan(&self, pattern: Arc<CsrPattern>, options: PlanOptions) -> Result<Self::Plan, BackendError> {
        self.cpu.plan(pattern, options)
    }

    fn pattern<'a>(&self, plan: &'a Self::Plan) -> &'a Arc<CsrPattern> {
        self.cpu.pattern(plan)
    }

    fn plan_options(&self, plan: &Self::Plan) -> PlanOptions {
        self.cpu.plan_options(plan)
    }

    fn plan_bytes(&self, plan: &Self::Plan) -> usize {
        self.cpu.plan_bytes(plan)
    }

    nothing! {
        run_refresh_transposed(Checked, &Self::Plan, &Self::Buffer, &mut Self::Buffer);
        run_spmm(Checked, Op, &SparseMatrix<Self>, Option<&Self::Buffer>, bool, &Strips<Self>, &mut Strips<Self>);
        run_sddmm(WeightGrad<'_, &Self::Plan, Strips<Self>, Self::Buffer>);
    }

    nowhere! {
        run_grow(Checked, &GrowRequest, Pairs<'_, Strips<Self>>);
        run_largest(Checked, &Self::Buffer, &GrowRequest);
    }
}

impl BlockSparseLinear for Ledger {
    const TAKES_16_BITS: bool = <Cpu as BlockSparseLinear>::TAKES_16_BITS;
    type BlockPlan = <Cpu as BlockSparseLinear>::BlockPlan;

    fn plan_blocks(&self, pattern: Arc<BsrPattern>, options: PlanOptions) -> Result<Self::BlockPlan, BackendError> {
        self.cpu.plan_blocks(pattern, options)
    }

    fn block_pattern<'a>(&self, plan: &'a Self::BlockPlan) -> &'a Arc<BsrPattern> {
        self.cpu.block_pattern(plan)
    }

    fn block_plan_options(&self, plan: &Self::BlockPlan) -> PlanOptions {
        self.cpu.block_plan_options(plan)
    }

    fn block_plan_bytes(&self, plan: &Self::BlockPlan) -> usize {
        self.cpu.block_plan_bytes(plan)
    }

    nothing! {
        run_spmm_bsr(Checked, Op, &BlockMatrix<Self>, &Strips<Self>, &mut Strips<Self>);
        run_sddmm_bsr(WeightGrad<'_, &Self::BlockPlan, Strips<Self>, Self::Buffer>);
    }

    nowhere! {
        run_grow_blocks(Checked, [[usize; 2]; 2], &GrowRequest, Pairs<'_, Strips<Self>>);
    }
}

impl DenseLinear for Ledger {
    const TAKES_16_BITS: bool = <Cpu as DenseLinear>::TAKES_16_BITS;

    nothing! {
        run_gemm(Checked, Op, &Self::Buffer, &Strips<Self>, &mut Strips<Self>);
        run_gemm_weight_grad(WeightGrad<'_, (), Strips<Self>, Self::Buffer>);
    }
}

impl SparseConv for Ledger {
    const TAKES_16_BITS: bool = <Cpu as SparseConv>::TAKES_16_BITS;
    type ConvPlan = <Cpu as SparseConv>::ConvPlan;

    fn plan_conv(
        &self,
        pattern: Arc<CsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self::ConvPlan, BackendError> {
        self.cpu.plan_conv(pattern, shape, options)
    }

    fn image_strip(&self, shape: ConvShape, samples: usize) -> usize {
        self.cpu.image_strip(shape, samples)
    }

    fn conv_pattern<'a>(&self, plan: &'a Self::ConvPlan) -> &'a Arc<CsrPattern> {
        self.cpu.conv_pattern(plan)
    }

    fn conv_shape(&self, plan: &Self::ConvPlan) -> ConvShape {
        self.cpu.conv_shape(plan)
    }

    fn conv_options(&self, plan: &Self::ConvPlan) -> ConvOptions {
        self.cpu.conv_options(plan)
    }

    fn conv_plan_bytes(&self, plan: &Self::ConvPlan) -> usize {
        self.cpu.conv_plan_bytes(plan)
    }

    nothing! {
        run_refresh_conv(Checked, &Self::ConvPlan, &Self::Buffer, &mut Self::Buffer);
        run_conv_forward(Checked, &ConvWeight<Self>, &Images<Self>, &mut Images<Self>);
        run_conv_input_grad(Checked, &ConvWeight<Self>, &Images<Self>, &mut Images<Self>);
    }

    fn run_conv_weight_grad(&self, call: WeightGrad<'_, &Self::ConvPlan, Images<Self>, Self::Buffer>) -> Done {
        let in_tiles = call.plan.is_densified();
        self.borrow_for_weight_grad(self.conv_shape(call.plan), [call.x, call.dy], call.values, in_tiles)
    }

    nowhere! {
        run_grow_conv(Checked, ConvShape, &GrowRequest, Pairs<'_, Images<Self>>);
    }
}

impl BlockSparseConv for Ledger {
    const TAKES_16_BITS: bool = <Cpu as BlockSparseConv>::TAKES_16_BITS;
    type BlockConvPlan = <Cpu as BlockSparseConv>::BlockConvPlan;

    fn plan_conv_blocks(
        &self,
        pattern: Arc<BsrPattern>,
        shape: ConvShape,
        options: ConvOptions,
    ) -> Result<Self::BlockConvPlan, BackendError> {
        self.cpu.plan_conv_blocks(pattern, shape, options)
    }

    fn block_conv_pattern<'a>(&self, plan: &'a Self::BlockConvPlan) -> &'a Arc<BsrPattern> {
        self.cpu.block_conv_pattern(plan)
    }

    fn block_conv_shape(&self, plan: &Self::BlockConvPlan) -> ConvShape {
        self.cpu.block_conv_shape(plan)
    }

    fn block_conv_options(&self, plan: &Self::BlockConvPlan) -> ConvOptions {
        self.cpu.block_conv_options(plan)
    }

    fn block_conv_plan_bytes(&self, plan: &Self::BlockConvPlan) -> usize {
        self.cpu.block_conv_plan_bytes(plan)
    }

    nothing! {
        run_conv_forward_bsr(Checked, &BlockConvWeight<Self>, &Images<Self>, &mut Images<Self>);
        run_conv_input_grad_bsr(Checked, &BlockConvWeight<Self>, &Images<Self>, &mut Images<Self>);
    }

    fn run_conv_weight_grad_bsr(&self, call: WeightGrad<'_, &Self::BlockConvPlan, Images<Self>, Self::Buffer>) -> Done {
        self.borrow_for_weight_grad(self.block_conv_shape(call.plan), [call.x, call.dy], call.values, true)
    }

    nowhere! {
        run_grow_conv_blocks(Checked, ConvShape, [usize; 2], &GrowRequest, Pairs<'_, Images<Self>>);
    }
}

impl DenseConv for Ledger {
    const TAKES_16_BITS: bool = <Cpu as DenseConv>::TAKES_16_BITS;

    nothing! {
        run_conv_forward_dense(Checked, ConvShape, &Self::Buffer, &Images<Self>, &mut Images<Self>);
        run_conv_input_grad_dense(Checked, ConvShape, &Self::Buffer, &Images<Self>, &mut Images<Self>);
    }

    fn run_conv_weight_grad_dense(&self, call: WeightGrad<'_, ConvShape, Images<Self>, Self::Buffer>) -> Done {
        self.borrow_for_weight_grad(call.plan, [call.x, call.dy], call.values, true)
    }
}

impl Neural for Ledger {
    const TAKES_16_BITS: bool = <Cpu as Neural>::TAKES_16_BITS;

    nothing! {
        run_bias_relu(Checked, &Self::Buffer, bool, &mut Strips<Self>);
        run_bias_relu_grad(Checked, &Strips<Self>, bool, &mut Strips<Self>, &mut Self::Buffer, bool);
        run_lane_sums(Checked, &Strips<Self>, &mut Self::Buffer, bool);
        run_softmax_cross_entropy(
            Checked,
            CrossEntropy,
            &Strips<Self>,
            &Self::Indices,
            &mut Self::Buffer,
            Option<&mut Strips<Self>>,
        );
        run_pointwise_loss(
            Checked,
            PointwiseLoss,
            f32,
            [&Strips<Self>; 2],
            &mut Self::Buffer,
            Option<&mut Strips<Self>>,
        );
        run_dropout(Checked, Key, f32, &mut Strips<Self>);
    }
}

impl Lists for Ledger {
    nothing! {
        run_list_product(Checked, &ColumnIndex, &Self::Buffer, &Csr, &mut Strips<Self>);
        run_list_weight_grad(Checked, &ColumnIndex, &Strips<Self>, &Csr, &mut Self::Buffer, bool);
        run_label_loss(Checked, f32, usize, &CsrPattern, &mut Strips<Self>, &mut Self::Buffer);
    }
}

impl Optimizer for Ledger {
    nothing! {
        run_sgd(Checked, SgdStep, &mut Self::Buffer, &Self::Buffer, Option<&mut Self::Buffer>);
        run_adam(
            Checked,
            AdamStep,
            &mut Self::Buffer,
            &Self::Buffer,
            [&mut Self::Buffer; 2],
            Option<[&mut Self::Buffer; 2]>,
        );
        run_add_squares(Checked, &Self::Buffer, &mut Self::Buffer);
        run_clip(Checked, &Self::Buffer, f32, &mut Self::Buffer);
    }
}

impl ImageNeural for Ledger {
    const TAKES_16_BITS: bool = <Cpu as ImageNeural>::TAKES_16_BITS;
    const ADDS_AND_POOLS_16_BITS: bool = <Cpu as ImageNeural>::ADDS_AND_POOLS_16_BITS;

    nothing! {
        run_pool(Checked, Pool, PoolShape, &Images<Self>, &mut Images<Self>);
        run_max_pool_grad(Checked, PoolShape, [&Images<Self>; 3], &mut Images<Self>, bool);
        run_avg_pool_grad(Checked, PoolShape, &Images<Self>, &mut Images<Self>, bool);
        run_global_avg_pool(Checked, &Images<Self>, &mut Strips<Self>);
        run_global_avg_pool_grad(Checked, &Strips<Self>, &mut Images<Self>);
        run_flatten(Checked, &Images<Self>, &mut Strips<Self>);
        run_unflatten(Checked, &Strips<Self>, &mut Images<Self>);
        run_bias_relu_images(Checked, Option<&Self::Buffer>, bool, &mut Images<Self>);
        run_bias_relu_images_grad(Checked, &Images<Self>, bool, &mut Images<Self>, &mut Self::Buffer, bool);
        run_relu_images_grad(Checked, &Images<Self>, &mut Images<Self>);
        run_add_images(Checked, &Images<Self>, &mut Images<Self>);
        run_copy_channels(Checked, &Images<Self>, Range<usize>, &mut Images<Self>, usize);
        run_dropout_images(Checked, Key, f32, &mut Images<Self>);
    }
}

impl SequenceNeural for Ledger {
    const TAKES_16_BITS: bool = <Cpu as SequenceNeural>::TAKES_16_BITS;

    nothing! {
        run_embed(Checked, &Self::Buffer, Option<(&Self::Buffer, usize)>, &Self::Indices, &mut Strips<Self>);
        run_embed_grad(Checked, Rows<'_, Self>, &Strips<Self>, &mut Self::Buffer, bool);
        run_feature_norm(
            Checked,
            FeatureNorm,
            &Self::Buffer,
            NormInput<'_, Self>,
            &mut Strips<Self>,
            &mut Strips<Self>,
        );
        run_feature_norm_grad(Checked, NormKind, NormGrad<'_, Self>);
        run_gelu(Checked, Gelu, &Strips<Self>, &mut Strips<Self>);
        run_attention(Checked, Attention, [&Strips<Self>; 3], &mut Strips<Self>, &mut Strips<Self>);
        run_attention_grad(Checked, Attention, AttentionGrad<'_, Self>);
        run_gelu_grad(Checked, Gelu, &Strips<Self>, &mut Strips<Self>);
    }
}

impl Recurrent for Ledger {
    nothing! {
        run_gru_step(Checked, Steps, GruStep<'_, Self>);
        run_gru_step_grad(Checked, Steps, GruStepGrad<'_, Self>);
        run_lstm_step(Checked, Steps, LstmStep<'_, Self>);
        run_lstm_step_grad(Checked, Steps, LstmStepGrad<'_, Self>);
    }
}

impl BatchNorm for Ledger {
    const TAKES_16_BITS: bool = <Cpu as BatchNorm>::TAKES_16_BITS;

    nothing! {
        run_batch_moments(
            Checked,
            BatchNormOptions,
            Option<&Images<Self>>,
            &mut Images<Self>,
            &mut Self::Buffer,
            &mut Self::Buffer,
        );
        run_batch_normalize(
            Checked,
            [&Self::Buffer; 2],
            Option<&Images<Self>>,
            Activation,
            &Images<Self>,
            &mut Images<Self>,
        );
        run_running_moments(Checked, BatchNormOptions, &Self::Buffer, &mut Self::Buffer);
        run_batch_norm_grad_sums(
            Checked,
            [&Self::Buffer; 2],
            ReluMask<'_, Self>,
            &Images<Self>,
            &mut Images<Self>,
            &mut Self::Buffer,
        );
        run_batch_norm_grad(
            Checked,
            [&Self::Buffer; 3],
            Activation,
            &Images<Self>,
            &mut Images<Self>,
            Option<(&mut Images<Self>, Accumulate)>,
        );
    }
}
