// keep, alpha and shrink from what is left of the sums of squares of w and of u, each at most a leaf. One
// warp.
extern "C" __global__ void __launch_bounds__(BLOCK, 1)
    adafactor_numbers(const Real *__restrict__ of_w, const Real *__restrict__ of_u, Real *numbers,
                      const long long parts, const int scaled, const int clipped, const int decoupled,
                      const Real one_, const Real count_, const Real eps2_, const Real rho_, const Real d_,
                      const Real keep_, const Real weight_decay_)
{
    if (threadIdx.x >= 32)
        return;
    Real alpha = rho_;
    Real shrink = one_;
    if (scaled)
        alpha = maximum(eps2_, square_root(leaf_of(of_w, parts) / count_)) * rho_;
    if (clipped)
        shrink = one_ / maximum(one_, square_root(leaf_of(of_u, parts) / count_) / d_);
    if (threadIdx.x == 0) {
        const Real decayed = weight_decay_ * alpha;
        numbers[0] = decoupled ? one_ - decayed : keep_;
        numbers[1] = alpha;
        numbers[2] = shrink;
    }
}
