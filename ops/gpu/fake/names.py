"""The names that CuPy 14.2 has, and the parameters of its functions: what code for GPUs may use.

Written by `shoal.ops.gpu.contract`, which compares it with the CuPy that is installed. ``f()`` is a ufunc.
"""

__all__ = ["CUPY", "FFT", "LINALG", "METHODS", "RANDOM", "SPECIAL", "VERSION"]

VERSION = "14.2.0"

CUPY = """
DataSource ElementwiseKernel Inf Infinity NAN NINF NZERO NaN PINF PZERO RawKernel RawModule ReductionKernel abs()
absolute() acos() acosh() add() all(a,axis,out,keepdims) allclose(a,b,rtol,atol,equal_nan)
alltrue(a,axis,out,keepdims) amax(a,axis,out,keepdims) amin(a,axis,out,keepdims) angle(z,deg) annotations
any(a,axis,out,keepdims) append(arr,values,axis) apply_along_axis(func1d,axis,arr,**kwargs)
apply_over_axes(func,a,axes) arange(start,stop,step,dtype) arccos() arccosh() arcsin() arcsinh() arctan() arctan2()
arctanh() argmax(a,axis,dtype,out,keepdims) argmin(a,axis,dtype,out,keepdims) argpartition(a,kth,axis)
argsort(a,axis,kind) argwhere(a) around(a,decimals,out) array(obj,dtype,copy,order,subok,ndmin,blocking)
array2string(a,**kwargs) array_equal(a1,a2,equal_nan) array_equiv(a1,a2)
array_repr(arr,max_line_width,precision,suppress_small) array_split(ary,indices_or_sections,axis)
array_str(arr,max_line_width,precision,suppress_small) asanyarray(a,dtype,order,copy,blocking)
asarray(a,dtype,order,copy,blocking) asarray_chkfinite(a,dtype,order) ascontiguousarray(a,dtype) asfarray(a,dtype)
asfortranarray(a,dtype) asin() asinh() asnumpy(a,stream,order,out,blocking) astype(copy) atan() atan2() atanh()
atleast_1d() atleast_2d() atleast_3d() average(a,axis,weights,returned,keepdims) bartlett(M)
base_repr(number,base,padding) binary_repr(num,width) bincount(x,weights,minlength) bitwise_and() bitwise_count()
bitwise_invert() bitwise_left_shift() bitwise_not() bitwise_or() bitwise_right_shift() bitwise_xor() blackman(M) bool
bool_ broadcast broadcast_arrays() broadcast_shapes() broadcast_to(array,shape) byte byte_bounds(a) c_
can_cast(from_,to,casting) cbrt() cdouble ceil() cfloat choose(a,choices,out,mode) clear_memo(**)
clip(a,a_min,a_max,out) column_stack(tup) common_type() complex128 complex64 complex_ complexfloating
compress(condition,a,axis,out) concat(tup,axis,out,dtype,casting) concatenate(tup,axis,out,dtype,casting) conj()
conjugate() convolve(a,v,mode) copy(a,order) copysign() copyto(dst,src,casting,where)
corrcoef(a,y,rowvar,bias,ddof,dtype) correlate(a,v,mode) cos() cosh() count_nonzero(a,axis)
cov(a,y,rowvar,bias,ddof,fweights,aweights,dtype) cross(a,b,axisa,axisb,axisc,axis) csingle cumprod(a,axis,dtype,out)
cumproduct(a,axis,dtype,out) cumsum(a,axis,dtype,out) cumulative_prod(axis,dtype,out,include_initial)
cumulative_sum(axis,dtype,out,include_initial) deg2rad() degrees() delete(arr,indices,axis) diag(v,k)
diag_indices(n,ndim) diag_indices_from(arr) diagflat(v,k) diagonal(a,offset,axis1,axis2) diff(a,n,axis,prepend,append)
digitize(x,bins,right) disable_experimental_feature_warning disp(**kwds) divide() divmod() dot(a,b,out) double
dsplit(ary,indices_or_sections) dstack(tup) dtype e ediff1d(arr,to_end,to_begin) einsum(**kwargs)
empty(shape,dtype,order) empty_like(prototype,dtype,order,subok,shape) equal() euler_gamma exp() exp2()
expand_dims(a,axis) expm1() extract(condition,a) eye(N,M,k,dtype,order) fabs() fill_diagonal(a,val,wrap)
find_common_type(**kwds) finfo fix() flatiter flatnonzero(a) flip(a,axis) fliplr(a) flipud(a) float16 float32 float64
float_ float_power() floating floor() floor_divide() fmax() fmin() fmod() format_float_positional(x,**kwargs)
format_float_scientific(x,**kwargs) format_parser frexp() fromDlpack(**) from_dlpack(**) frombuffer(**kwargs)
fromfile(**kwargs) fromfunction(**kwargs) fromiter(**kwargs) fromstring(**kwargs) full(shape,fill_value,dtype,order)
full_like(a,fill_value,dtype,order,subok,shape) fuse(**) gcd() generic genfromtxt(**kwargs) get_array_module()
get_array_wrap(**kwds) get_default_memory_pool() get_default_pinned_memory_pool() get_printoptions()
gradient(f,axis,edge_order) greater() greater_equal() half hamming(M) hanning(M) heaviside()
histogram(x,bins,range,density,weights) histogram2d(x,y,bins,range,weights,density)
histogramdd(sample,bins,range,weights,density) hsplit(ary,indices_or_sections) hstack(tup,dtype,casting) hypot() i0()
identity(n,dtype) iinfo imag(val) in1d(ar1,ar2,assume_unique,invert) index_exp indices(dimensions,dtype) inexact inf
infty inner(a,b) int16 int32 int64 int8 int_ intc integer interp(x,xp,fp,left,right,period)
intersect1d(arr1,arr2,assume_unique,return_indices) intp invert() is_available() isclose(a,b,rtol,atol,equal_nan)
iscomplex(x) iscomplexobj(x) isdtype(dtype,kind) isfinite() isfortran(a)
isin(element,test_elements,assume_unique,invert) isinf() isnan() isneginf(x,out) isposinf(x,out) isreal(x)
isrealobj(x) isscalar(element) issctype(rep) issubclass_(arg1,arg2) issubdtype(arg1,arg2) issubsctype(arg1,arg2)
iterable(y) ix_() kaiser(M,beta) kron(a,b) lcm() ldexp() left_shift() less() less_equal() lexsort(keys)
linspace(start,stop,num,endpoint,retstep,dtype,axis) load(file,mmap_mode,allow_pickle) loadtxt(**kwargs) log() log10()
log1p() log2() logaddexp() logaddexp2() logical_and() logical_not() logical_or() logical_xor()
logspace(start,stop,num,endpoint,base,dtype,axis) long longlong make_aligned_dtype(**) mask_indices(n,mask_func,k)
matmul(axes,axis,keepdims,casting,dtype,signature,order,out) matrix_transpose() max(a,axis,out,keepdims) maximum()
may_share_memory(a,b,max_work) mean(a,axis,dtype,out,keepdims) median(a,axis,out,overwrite_input,keepdims) memoize(**)
meshgrid(**kwargs) mgrid min(a,axis,out,keepdims) min_scalar_type(**) minimum() mintypecode(typechars,typeset,default)
mod() modf() moveaxis(a,source,destination) msort(a) multiply() nan nan_to_num(x,copy,nan,posinf,neginf)
nanargmax(a,axis,dtype,out,keepdims) nanargmin(a,axis,dtype,out,keepdims) nancumprod(a,axis,dtype,out)
nancumsum(a,axis,dtype,out) nanmax(a,axis,out,keepdims) nanmean(a,axis,dtype,out,keepdims)
nanmedian(a,axis,out,overwrite_input,keepdims) nanmin(a,axis,out,keepdims) nanprod(a,axis,dtype,out,keepdims)
nanstd(a,axis,dtype,out,ddof,keepdims) nansum(a,axis,dtype,out,keepdims) nanvar(a,axis,dtype,out,ddof,keepdims)
ndarray ndim(a) ndindex negative() newaxis nextafter() nonzero(a) not_equal() number obj2sctype(rep,default) ogrid
ones(shape,dtype,order) ones_like(a,dtype,order,subok,shape) outer(a,b,out) packbits(a,axis,bitorder)
pad(array,pad_width,mode,**kwargs) partition(a,kth,axis)
percentile(a,q,axis,out,overwrite_input,method,keepdims,interpolation) permute_dims(a,axes) pi
piecewise(x,condlist,funclist) place(arr,mask,vals) poly(seq_of_zeros) poly1d polyadd(a1,a2)
polyfit(x,y,deg,rcond,full,w,cov) polymul(a1,a2) polysub(a1,a2) polyval(p,x) positive() pow() power()
printoptions(**kwargs) prod(a,axis,dtype,out,keepdims) product(a,axis,dtype,out,keepdims) promote_types()
ptp(a,axis,out,keepdims) put(a,ind,v,mode) put_along_axis(arr,indices,values,axis) putmask(a,mask,values)
quantile(a,q,axis,out,overwrite_input,method,keepdims,interpolation) r_ rad2deg() radians() ravel(a,order)
ravel_multi_index(multi_index,dims,mode,order) real(val) real_if_close(a,tol) reciprocal() remainder()
repeat(a,repeats,axis) require(a,dtype,requirements) reshape(a,newshape,order,copy) resize(a,new_shape) result_type()
right_shift() rint() roll(a,shift,axis) rollaxis(a,axis,start) roots(p) rot90(a,k,axes) round(a,decimals,out)
round_(a,decimals,out) row_stack(tup,dtype,casting) s_ safe_eval(**kwds) save(file,arr,allow_pickle)
savetxt(fname,X,**kwargs) savez(file,**kwds) savez_compressed(file,**kwds) sctype2char(sctype)
searchsorted(a,v,side,sorter) select(condlist,choicelist,default)
set_printoptions(precision,threshold,edgeitems,linewidth,suppress,nanstr,infstr,formatter,sign,floatmode,legacy,override_repr)
set_string_function(**kwds) setdiff1d(ar1,ar2,assume_unique) setxor1d(ar1,ar2,assume_unique) shape(a)
shares_memory(a,b,max_work) short show_config(_full) sign() signbit() signedinteger sin() sinc() single singlecomplex
sinh() size(**) sometrue(a,axis,out,keepdims) sort(a,axis,kind) sort_complex(a) split(ary,indices_or_sections,axis)
sqrt() square() squeeze(a,axis) stack(tup,axis,out,dtype,casting) std(a,axis,dtype,out,ddof,keepdims) subtract()
sum(a,axis,dtype,out,keepdims) swapaxes(a,axis1,axis2) take(a,indices,axis,out) take_along_axis(a,indices,axis) tan()
tanh() tensordot(a,b,axes) tile(A,reps) trace(a,offset,axis1,axis2,dtype,out) transpose(a,axes) trapezoid(y,x,dx,axis)
trapz(y,x,dx,axis) tri(N,M,k,dtype) tril(m,k) tril_indices(n,k,m) tril_indices_from(arr,k) trim_zeros(filt,trim)
triu(m,k) triu_indices(n,k,m) triu_indices_from(arr,k) true_divide() trunc() typename(char) ubyte ufunc uint uint16
uint32 uint64 uint8 uintc uintp ulong ulonglong union1d(arr1,arr2)
unique(ar,return_index,return_inverse,return_counts,axis,equal_nan) unique_all(x) unique_counts(x) unique_inverse(x)
unique_values(x) unpackbits(a,axis,bitorder) unravel_index(indices,dims,order) unsignedinteger
unwrap(p,discont,axis,period) ushort vander(x,N,increasing) var(a,axis,dtype,out,ddof,keepdims) vdot(a,b) vectorize
vsplit(ary,indices_or_sections) vstack(tup,dtype,casting) where(condition,x,y) who(vardict) zeros(shape,dtype,order)
zeros_like(a,dtype,order,subok,shape)
"""

LINALG = """
annotations cholesky(a) cond(x,p) cross(axis) det(a) eig(a) eigh(a,UPLO) eigvals(a) eigvalsh(a,UPLO) inv(a)
lstsq(a,b,rcond) matmul(axes,axis,keepdims,casting,dtype,signature,order,out) matrix_power(M,n) matrix_rank(M,tol)
matrix_transpose(a) norm(x,ord,axis,keepdims) pinv(a,rcond) qr(a,mode) slogdet(a) solve(a,b)
svd(a,full_matrices,compute_uv) tensorinv(a,ind) tensorsolve(a,b,axes)
"""

FFT = """
config fft(a,n,axis,norm) fft2(a,s,axes,norm) fftfreq(n,d) fftn(a,s,axes,norm) fftshift(x,axes) hfft(a,n,axis,norm)
ifft(a,n,axis,norm) ifft2(a,s,axes,norm) ifftn(a,s,axes,norm) ifftshift(x,axes) ihfft(a,n,axis,norm)
irfft(a,n,axis,norm) irfft2(a,s,axes,norm) irfftn(a,s,axes,norm) rfft(a,n,axis,norm) rfft2(a,s,axes,norm)
rfftfreq(n,d) rfftn(a,s,axes,norm)
"""

RANDOM = """
BitGenerator MRG32k3a Philox4x3210 RandomState XORWOW annotations beta(a,b,size,dtype) binomial(n,p,size,dtype)
bytes(length) chisquare(df,size,dtype) choice(a,size,replace,p) default_rng(seed) dirichlet(alpha,size,dtype)
exponential(scale,size,dtype) f(dfnum,dfden,size,dtype) gamma(shape,scale,size,dtype) geometric(p,size,dtype)
get_random_state() gumbel(loc,scale,size,dtype) hypergeometric(ngood,nbad,nsample,size,dtype)
laplace(loc,scale,size,dtype) logistic(loc,scale,size,dtype) lognormal(mean,sigma,size,dtype) logseries(p,size,dtype)
multinomial(n,pvals,size) multivariate_normal(mean,cov,size,check_valid,tol,method,dtype)
negative_binomial(n,p,size,dtype) noncentral_chisquare(df,nonc,size,dtype) noncentral_f(dfnum,dfden,nonc,size,dtype)
normal(loc,scale,size,dtype) pareto(a,size,dtype) permutation(a) poisson(lam,size,dtype) power(a,size,dtype)
rand(**kwarg) randint(low,high,size,dtype) randn(**kwarg) random(size,dtype) random_integers(low,high,size)
random_sample(size,dtype) ranf(size,dtype) rayleigh(scale,size,dtype) reset_states() sample(size,dtype) seed(seed)
set_random_state(rs) shuffle(a) standard_cauchy(size,dtype) standard_exponential(size,dtype)
standard_gamma(shape,size,dtype) standard_normal(size,dtype) standard_t(df,size,dtype)
triangular(left,mode,right,size,dtype) uniform(low,high,size,dtype) vonmises(mu,kappa,size,dtype)
wald(mean,scale,size,dtype) weibull(a,size,dtype) zipf(a,size,dtype)
"""

SPECIAL = """
annotations bdtr() bdtrc() bdtri() beta() betainc() betaincinv() betaln() binom() boxcox() boxcox1p() btdtr(a,b,x,out)
btdtri(a,b,p,out) cbrt() chdtr() chdtrc() chdtri() cosdg() cosm1() cotdg() digamma() ellipeinc() ellipj() ellipk()
ellipkinc() ellipkm1() entr() erf() erfc() erfcinv() erfcx() erfinv() exp1() exp10() exp2() expi() expit() expm1()
expn() exprel() fdtr() fdtrc() fdtri() gamma() gammainc() gammaincc() gammainccinv() gammaincinv() gammaln()
gammasgn() gdtr() gdtrc() huber() i0() i0e() i1() i1e() inv_boxcox() inv_boxcox1p() j0() j1() k0() k0e() k1() k1e()
kl_div() lambertw(z,k,tol) log1p() log_expit() log_ndtr() log_softmax(x,axis) loggamma() logit()
logsumexp(a,axis,b,keepdims,return_sign) lpmv() multigammaln(a,d) nbdtr() nbdtrc() nbdtri() ndtr() ndtri() pdtr()
pdtrc() pdtri() poch() polygamma(n,x) pseudo_huber() psi() radian() rel_entr() rgamma() round(a,decimals,out) shichi()
sici() sinc() sindg() softmax(x,axis) sph_harm(m,n,theta,phi,out) sph_harm_y(n,m,theta,phi,diff_n)
spherical_yn(n,z,derivative) tandg() wright_bessel() xlog1py() xlogy() y0() y1() yn() zeta() zetac()
"""

METHODS = """
T __abs__ __add__ __and__ __bool__ __complex__ __divmod__ __eq__ __float__ __floordiv__ __ge__ __getitem__ __gt__
__iadd__ __iand__ __ifloordiv__ __ilshift__ __imod__ __imul__ __int__ __invert__ __ior__ __ipow__ __irshift__ __isub__
__iter__ __itruediv__ __ixor__ __le__ __len__ __lshift__ __lt__ __matmul__ __mod__ __mul__ __ne__ __neg__ __or__
__pos__ __pow__ __radd__ __rand__ __rdivmod__ __rfloordiv__ __rlshift__ __rmatmul__ __rmod__ __rmul__ __ror__ __rpow__
__rrshift__ __rshift__ __rsub__ __rtruediv__ __rxor__ __setitem__ __sub__ __truediv__ __xor__ all any argmax argmin
argpartition argsort astype base byteswap choose clip compress conj conjugate copy cstruct cumprod cumsum data device
diagonal dot dtype dump dumps fill flags flat flatten get imag item itemsize mT max mdspan mean min nbytes ndim
nonzero partition prod ptp put ravel real reduced_view repeat reshape round scatter_add scatter_max scatter_min
searchsorted set shape size sort squeeze std strides sum swapaxes take toDlpack tobytes tofile tolist trace transpose
var view
"""
