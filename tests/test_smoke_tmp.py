def test_flow(micro_run, script, scenes_dir, tmp_path):
    import os
    os.system(f"find {micro_run}; cat {micro_run}/run.json | head -80; cat {micro_run}/metrics.jsonl")
    out=script("diff_inference","--modelpath",micro_run,"-nb","5","-imb","2","--num_inference_steps","3","--batch_size",3, "--savepath", tmp_path/"g","--rand_augs","rand_word_add","--rand_noise_lam","0.1")
    print(out)
    out=script("diff_retrieval","--query_dir",tmp_path/"g","--val_dir",scenes_dir/"train","--pt_style","pixel","--report_to","none","--num_workers",0)
    print(out); os.system(f"find {tmp_path}; cat {tmp_path}/g/evaluations/*/metrics.json; head -5 {tmp_path}/g/evaluations/*/matches.csv; cat {tmp_path}/g/manifest.json | head -60")
    os.system(f"rm -rf /tmp/ev; cp -r {tmp_path}/g/evaluations/* /tmp/ev")
